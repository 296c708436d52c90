-- Canaries that serving starts by itself, for candidates that the gate could not judge.

alter table rollouts add column automatic boolean not null default false;

-- When a descendant of the policy first answered everybody, of a policy that never did itself: since then, what it
-- learned is live.
alter table policies add column inherited_at timestamptz;

-- The ancestors of a policy up to the first that ever answered everybody, nearest first.
create function ancestors_since_live(of_project text, of_policy text)
returns table (id text, state text, live_at timestamptz, depth integer) language sql stable as $$
    with recursive lineage (id, parent, state, live_at, depth) as (
        select a.id, a.parent, a.state, a.live_at, 1
        from policies p join policies a on a.project = p.project and a.id = p.parent
        where p.project = of_project and p.id = of_policy
        union all
        select a.id, a.parent, a.state, a.live_at, l.depth + 1
        from lineage l join policies a on a.project = of_project and a.id = l.parent
        where l.live_at is null
    )
    select id, state, live_at, depth from lineage
$$;
