-- A person is erased: their rows, their lines in exported files, and what policies learned from them.

-- One request to erase a person. `steps` has what was done, by name, with its time and counts; `receipt` says it all,
-- signed, once nothing is left to do.
create table erasures (
    id         text primary key,
    project    text not null references projects,
    raters     text[],                               -- the person's pseudonyms, until nothing is held under them
    hashes     bytea[] not null,                     -- of the pseudonyms (see person_hash), which stay
    asked_by   text not null,                        -- the key, `visitor`, or `restore`
    asked_at   timestamptz not null default now(),
    xid        xid8 not null default pg_current_xact_id(),
    since      timestamptz,                          -- of the oldest row that was deleted
    votes      bigint not null default 0,            -- training examples that were deleted, of people's votes
    learned_by text[] not null default '{}',         -- policies that were the first to learn from them
    counts     jsonb not null default '{}',          -- rows that were deleted so far, by kind
    steps      jsonb not null default '{}',
    receipt    jsonb,
    done_at    timestamptz
);
create index erasures_by_time on erasures (project, asked_at, id);
create index erasures_running on erasures (project, asked_at) where done_at is null;

-- Who was erased, and until when: what they did before that is not stored again, wherever it comes from.
create table tombstones (
    project   text not null references projects,
    hash      bytea not null,
    erased_at timestamptz not null,
    primary key (project, hash)
);

create function person_hash(project text, rater text) returns bytea language sql immutable strict as $$
    select sha256(convert_to(project || ' ' || rater, 'UTF8'))
$$;

-- Whether this person was erased after `moment`.
create function erased(of_project text, rater text, moment timestamptz) returns boolean
language sql stable as $$
    select exists (
        select from tombstones
        where project = of_project and hash = person_hash(of_project, rater) and erased_at >= moment
    )
$$;

-- The ids of what was deleted, of turns and of events, until the trainer has looked for them in its files.
create table erased_ids (
    project text not null references projects,
    erasure text not null references erasures,
    id      text collate "C" not null,
    primary key (erasure, id)
);

-- Files of the scheduled export, with the votes after the first position and up to the second. A stale one has votes
-- that were erased since, and is written again.
create table exported_files (
    project    text not null references projects,
    output     text not null,
    layout     text not null,
    shape      text,
    from_epoch integer not null,
    from_xid   xid8 not null,
    from_id    text not null,
    to_epoch   integer not null,
    to_xid     xid8 not null,
    to_id      text not null,
    stale      boolean not null default false,
    primary key (project, to_epoch, to_xid, to_id)
);
create index exported_files_stale on exported_files (project) where stale;

-- What is found by the person or the turn that is erased.
create index training_examples_by_rater on training_examples (project, rater);
create index idempotency_by_completion on idempotency ((response ->> 'completion_id'));
create index annotation_items_by_turn_alone on annotation_items (turn_id);

-- A policy that learned from an erased person serves until it is replaced, and is never chosen again; `rebuilds` names
-- the one that a policy replaces, trained again without that person.
alter table policies
    add column tainted_at timestamptz,
    add column rebuilds   text;
create index policies_tainted on policies (project) where tainted_at is not null;
