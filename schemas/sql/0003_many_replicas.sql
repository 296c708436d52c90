-- What replicas of serving tell each other.

-- Requests that each key has made through all replicas, ever growing: every replica adds its own and learns
-- of the others'. Worth nothing after a crash, so not logged.
create unlogged table spending (
    key        text primary key,
    total      bigint not null,
    updated_at timestamptz not null default now()
);

-- The Postgres cluster that this database lives in. In another one transaction ids begin anew.
create table cluster (
    system_identifier text primary key
);
