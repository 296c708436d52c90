-- The last round that kept a vote back, as a check of its candidate.
alter table training_examples add column held_out_in bigint;
