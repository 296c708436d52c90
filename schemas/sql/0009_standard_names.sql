-- Tables, columns and indexes get the standard names of what they hold.
--
-- Each old table name stays as a view with the old columns. Postgres updates such views in place, so processes
-- of the release before go on reading and writing while they run beside this one. Defaults, keys and
-- `on conflict` are the tables' own. A later release drops the views.

alter table spending rename to rate_limit_usage;
alter index spending_pkey rename to rate_limit_usage_pkey;
create view spending as select key, total, updated_at from rate_limit_usage;

alter table waiting rename to blocked_partitions;
alter index waiting_pkey rename to blocked_partitions_pkey;
create view waiting as select log, partition, version, since from blocked_partitions;

alter table positions rename to consumer_offsets;
alter index positions_pkey rename to consumer_offsets_pkey;
create view positions as select consumer, log, partition, position, updated_at from consumer_offsets;

-- superseded_by: the event that superseded or retracted the vote; null while the vote is active.
-- vote_summary: the name of the summary that the vote was compacted into; null while rounds read the vote itself.
alter table examples rename to training_examples;
alter table training_examples rename column ended_by to superseded_by;
alter table training_examples rename column past to vote_summary;
alter index examples_pkey rename to training_examples_pkey;
alter index examples_feedback_id_key rename to training_examples_feedback_id_key;
alter index examples_standing rename to training_examples_active;
alter index examples_by_policy rename to training_examples_by_policy;
alter index examples_folded rename to training_examples_compacted;
alter index examples_unfolded rename to training_examples_not_compacted;
alter index examples_by_turn rename to training_examples_by_turn;
create view examples as
    select event_id, project, feedback_id, turn_id, choice, type, value, rater, conversation_id, created_at,
        superseded_by as ended_by, first_policy, vote_summary as past
    from training_examples;

alter index feedback_standing rename to feedback_active;

comment on view spending is 'Deprecated: use rate_limit_usage.';
comment on view waiting is 'Deprecated: use blocked_partitions.';
comment on view positions is 'Deprecated: use consumer_offsets.';
comment on view examples is 'Deprecated: use training_examples.';
