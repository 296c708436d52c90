-- What the console adds: filters that were given a name, queues of replies to rate, and how far a round has come.

alter table rounds add column progress jsonb;        -- of a running round: its phase, and the steps done
create index rounds_by_id on rounds (project, id);
create index rounds_by_policy on rounds (project, policy) where policy is not null;
create index policies_by_parent on policies (project, parent);

create table saved_views (
    project    text not null references projects,
    name       text not null,
    query      text not null,                        -- the filter as the console's address has it
    created_at timestamptz not null default now(),
    primary key (project, name)
);

create table annotation_queues (
    id         text primary key,
    project    text not null references projects,
    name       text not null,
    raters     integer not null check (raters > 0),  -- answers that an item needs, each of another rater
    created_at timestamptz not null default now()
);
create index annotation_queues_by_time on annotation_queues (project, created_at);

-- A turn to rate. Its answers are votes like others, of the raters below. Turns that expired are skipped.
create table annotation_items (
    project  text not null references projects,
    queue    text not null references annotation_queues on delete cascade,
    position integer not null,
    turn_id  text collate "C" not null,
    primary key (queue, position)
);
create unique index annotation_items_by_turn on annotation_items (queue, turn_id);

create table annotation_raters (
    project text not null references projects,
    queue   text not null references annotation_queues on delete cascade,
    name    text not null,
    rater   text not null,                           -- the pseudonym under which the answers are stored
    primary key (queue, name)
);
