-- Rollouts that people's votes decide: by shares, or by duels, in which a person sees a reply of either policy.

alter table rollouts drop constraint rollouts_kind_check;
alter table rollouts add constraint rollouts_kind_check check (kind in ('direct', 'canary', 'duel'));
-- ended: without a verdict on the policy.
alter table rollouts drop constraint rollouts_state_check;
alter table rollouts add constraint rollouts_state_check
    check (state in ('running', 'promoted', 'rolled_back', 'ended'));

alter table rollouts
    add column actor text,                           -- who began it, or ended it
    add column stages jsonb,                         -- the shares that it has had, each with its time
    add column evidence jsonb,                       -- every figure that its decision rests on, as it moves
    add column evidence_at timestamptz,
    add column evaluate_after timestamptz;           -- null when it is not to be decided (any more)
create index rollouts_to_evaluate on rollouts (evaluate_after) where evaluate_after is not null;
create index rollouts_running on rollouts (project, policy) where state = 'running';
-- What is running goes on, and is decided by the new rules.
update rollouts set evaluate_after = now(), stages = jsonb_build_array(jsonb_build_object(
    'share', share, 'since', started_at)) where state = 'running';

-- The share of the pairs that are duels; the canary then has no other share.
alter table routes add column duel_share double precision not null default 0 check (duel_share between 0 and 1);

alter table replies add column seconds real;         -- from the request to the reply's end

-- Requests that failed while a candidate was tried, of which there is no turn.
create table rollout_failures (
    project    text not null references projects,
    policy     text not null,
    rater      text not null,
    created_at timestamptz not null default now()
);
create index rollout_failures_by_time on rollout_failures (project, created_at);
