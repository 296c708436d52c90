-- A sample of a project's turns is those behind a random place in the order of this hash, without a sort of all.
create index turns_by_hash on turns (project, hashtextextended(id, 0));
