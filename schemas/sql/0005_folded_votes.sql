-- Votes that the trainer has folded into what is left of older ones (trainer/past.py), and need not read again.

alter table examples add column past text;           -- the name of what it was folded into
create index examples_folded on examples (project, past) where past is not null;
create index examples_unfolded on examples (project, created_at) where ended_by is null and past is null;
create index examples_by_turn on examples (turn_id); -- what people said of a policy's replies
