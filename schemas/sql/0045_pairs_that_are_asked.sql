-- Messages that were looked at for a pair, by person: how many were asked about today.
create index turns_by_pair on turns (project, rater, created_at) where request ? 'pair';
