-- A candidate that the gate refused is a policy that is rejected, until an operator brings it back or its files are pruned.

-- The events of the votes that it trained on. Once it is brought back it is the first policy of those that no older one
-- learned from.
create table refused_candidates (
    project text not null references projects,
    policy  text not null,
    events  text[] not null,
    primary key (project, policy)
);

-- Such a candidate is published when it is brought back.
create or replace function tell_of_policy() returns trigger language plpgsql as $$
declare
    about jsonb := jsonb_build_object('policy', new.id);
    brought_back boolean := false;
begin
    if not has_webhooks(new.project) then
        return null;
    end if;
    if tg_op = 'INSERT' and new.state = 'rejected' then
        perform add_webhook_event(new.project, 'policy.rejected', about || jsonb_build_object('reason', new.reason));
        return null;
    end if;
    if tg_op = 'UPDATE' then
        brought_back := old.state = 'rejected' and new.state <> 'rejected' and exists (
            select from refused_candidates where project = new.project and policy = new.id
        );
    end if;
    if tg_op = 'INSERT' or brought_back then
        perform add_webhook_event(new.project, 'policy.published', about || jsonb_build_object('parent', new.parent));
        perform add_webhook_event(new.project, 'vote.learned', about, new.id);
    end if;
    if tg_op = 'INSERT' then
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
