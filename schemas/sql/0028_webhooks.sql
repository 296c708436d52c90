-- Webhooks: what happens to votes, rounds and policies is sent to the endpoints of their project.
--
-- Triggers write events in the transaction of the change itself, where the project has an endpoint; so none is
-- missed, whoever makes the change. Events become deliveries, one for each endpoint that asked for their type.

create table webhook_endpoints (
    id            text primary key,
    project       text not null references projects,
    url           text not null,
    types         text[] not null,                   -- of the events that it gets; empty: all
    secret        bytea not null,                    -- signs what is sent
    created_at    timestamptz not null default now(),
    due_at        timestamptz,                       -- when the next delivery may be tried; null: nothing waits
    claimed_until timestamptz not null default '-infinity', -- until then, one process sends to it
    failures      integer not null default 0,        -- since the last delivery that succeeded
    failing_since timestamptz,
    disabled_at   timestamptz                        -- it failed for too long, or was gone
);
create index webhook_endpoints_by_project on webhook_endpoints (project, created_at);
create index webhook_endpoints_by_due on webhook_endpoints (due_at)
    where due_at is not null and disabled_at is null;

-- A queue: an event stays until its deliveries are written. One with a policy stands for all votes that this policy
-- was the first to learn from; those up to `votes_after` have theirs.
create table webhook_events (
    id          bigint generated always as identity primary key,
    project     text not null references projects,
    type        text not null,
    data        jsonb not null,
    policy      text,
    votes_after text not null default '',
    created_at  timestamptz not null default now()
);

create table webhook_deliveries (
    id           text collate "C" primary key,       -- the header webhook-id; ids sort by time
    project      text not null references projects,
    endpoint     text not null references webhook_endpoints on delete cascade,
    type         text not null,
    payload      text not null,                      -- the body, as it is signed
    attempts     integer not null default 0,
    due_at       timestamptz,                        -- of the next attempt; null: delivered, or given up
    delivered_at timestamptz,
    status       integer,                            -- of the last answer
    error        text                                -- why the last attempt failed
);
create index webhook_deliveries_by_endpoint on webhook_deliveries (endpoint, id);
create index webhook_deliveries_by_due on webhook_deliveries (endpoint, due_at) where due_at is not null;

-- The votes of a policy in pages.
create index training_examples_by_policy_and_vote on training_examples (project, first_policy, feedback_id);
drop index training_examples_by_policy;

create function has_webhooks(of_project text) returns boolean language sql stable as $$
    select exists (select from webhook_endpoints where project = of_project and disabled_at is null)
$$;

create function add_webhook_event(of_project text, of_type text, with_data jsonb, of_policy text default null)
returns void language sql as $$
    insert into webhook_events (project, type, data, policy) values (of_project, of_type, with_data, of_policy)
$$;

create function tell_of_vote() returns trigger language plpgsql as $$
begin
    if not has_webhooks(new.project) then
        return null;
    end if;
    if tg_op = 'INSERT' then
        perform add_webhook_event(new.project, 'vote.recorded', jsonb_build_object('id', new.id,
            'completion_id', new.turn_id, 'choice', new.choice, 'type', new.type, 'value', new.value,
            'policy', new.policy));
    elsif new.retracted_at is not null and old.retracted_at is null then
        perform add_webhook_event(new.project, 'vote.retracted', jsonb_build_object('id', new.id,
            'completion_id', new.turn_id, 'choice', new.choice, 'type', new.type));
    elsif new.superseded_by is not null and old.superseded_by is null then
        perform add_webhook_event(new.project, 'vote.superseded', jsonb_build_object('id', new.id,
            'completion_id', new.turn_id, 'choice', new.choice, 'type', new.type,
            'superseded_by', new.superseded_by));
    end if;
    return null;
end
$$;
create trigger tell_of_vote after insert or update of retracted_at, superseded_by on feedback
    for each row execute function tell_of_vote();

create function tell_of_held_out_vote() returns trigger language plpgsql as $$
begin
    if has_webhooks(new.project) then
        perform add_webhook_event(new.project, 'vote.held_out', jsonb_build_object('id', new.feedback_id,
            'completion_id', new.turn_id, 'choice', new.choice, 'type', new.type, 'round', new.held_out_in));
    end if;
    return null;
end
$$;
create trigger tell_of_held_out_vote after update of held_out_in on training_examples for each row
    when (new.held_out_in is distinct from old.held_out_in) execute function tell_of_held_out_vote();

create function tell_of_round() returns trigger language plpgsql as $$
begin
    if not has_webhooks(new.project) then
        return null;
    end if;
    if tg_op = 'INSERT' then
        perform add_webhook_event(new.project, 'round.started', jsonb_build_object('round', new.id,
            'parent', new.parent));
    else
        perform add_webhook_event(new.project, 'round.ended', jsonb_build_object('round', new.id,
            'parent', new.parent, 'outcome', new.outcome, 'reason', new.reason, 'policy', new.policy));
    end if;
    return null;
end
$$;
create trigger tell_of_new_round after insert on rounds for each row execute function tell_of_round();
create trigger tell_of_ended_round after update of outcome on rounds for each row
    when (old.outcome = 'running' and new.outcome <> 'running') execute function tell_of_round();

create function tell_of_rollout() returns trigger language plpgsql as $$
begin
    if has_webhooks(new.project) then
        perform add_webhook_event(new.project, case tg_op when 'INSERT' then 'rollout.started' else 'rollout.ended' end,
            jsonb_build_object('rollout', new.id, 'policy', new.policy, 'replaces', new.replaces,
                'share', new.share, 'state', new.state, 'reason', new.reason));
    end if;
    return null;
end
$$;
create trigger tell_of_new_rollout after insert on rollouts for each row
    when (new.kind <> 'direct') execute function tell_of_rollout();
create trigger tell_of_ended_rollout after update of state on rollouts for each row
    when (new.kind <> 'direct' and old.state = 'running' and new.state <> 'running')
    execute function tell_of_rollout();

-- What a policy learned is live with it, or with any later policy, as that one trains on the same votes.
create function tell_of_policy() returns trigger language plpgsql as $$
declare
    about jsonb := jsonb_build_object('policy', new.id);
begin
    if not has_webhooks(new.project) then
        return null;
    end if;
    if tg_op = 'INSERT' then
        perform add_webhook_event(new.project, 'policy.published', about || jsonb_build_object('parent', new.parent));
        perform add_webhook_event(new.project, 'vote.learned', about, new.id);
        return null;
    end if;
    if coalesce(old.live_at, old.inherited_at) is null and coalesce(new.live_at, new.inherited_at) is not null then
        perform add_webhook_event(new.project, 'vote.live', about, new.id);
    end if;
    if new.state in ('rolled_back', 'rejected') and old.state not in ('rolled_back', 'rejected') then
        perform add_webhook_event(new.project, 'policy.' || new.state,
            about || jsonb_build_object('reason', new.reason));
        perform add_webhook_event(new.project,
            case when later.live is null then 'vote.taken_back' else 'vote.live' end,
            jsonb_build_object('policy', coalesce(later.live, new.id)), new.id)
        from (select) as always left join (
            select routes.live from routes join policies p on p.project = routes.project and p.id = routes.live
            where routes.project = new.project and p.created_at > new.created_at
        ) as later on true;
    end if;
    return null;
end
$$;
create trigger tell_of_new_policy after insert on policies for each row
    when (new.parent is not null) execute function tell_of_policy();
create trigger tell_of_policy after update of state, live_at, inherited_at on policies for each row
    execute function tell_of_policy();

-- Between the policy that answered and the one that answers now lie those that were taken back: their votes are live
-- with a later one, and no longer with an earlier one.
create function tell_of_route() returns trigger language plpgsql as $$
begin
    if not has_webhooks(new.project) then
        return null;
    end if;
    perform add_webhook_event(new.project, 'policy.live',
        jsonb_build_object('policy', new.live, 'replaces', old.live));
    perform add_webhook_event(new.project,
        case when now_live.created_at > before.created_at then 'vote.live' else 'vote.taken_back' end,
        jsonb_build_object('policy', case when now_live.created_at > before.created_at then new.live else old.live end),
        between_them.id)
    from policies before, policies now_live, policies between_them
    where before.project = new.project and before.id = old.live
        and now_live.project = new.project and now_live.id = new.live
        and between_them.project = new.project and between_them.state in ('rolled_back', 'rejected')
        and between_them.created_at > least(before.created_at, now_live.created_at)
        and between_them.created_at < greatest(before.created_at, now_live.created_at);
    return null;
end
$$;
create trigger tell_of_route after update of live on routes for each row
    when (old.live is distinct from new.live) execute function tell_of_route();
