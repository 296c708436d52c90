-- Votes whose part of the vote summary was lost: rounds load a few of them each and compact them anew.

alter table training_examples add column recompact boolean not null default false;
