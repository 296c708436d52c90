-- Everything the loop remembers. Each row carries its project (tenant).
-- Ids are text that clients see; text that people wrote lives only in turns, replies and feedback.

create table projects (
    id            text primary key,
    system_prompt text,                              -- put before a conversation that brings none
    paused        boolean not null default false,    -- training rests while true
    created_at    timestamptz not null default now()
);
insert into projects (id) values ('default');

-- Values this installation made for itself once: the secret that signs feedback tokens and hashes users.
create table secrets (
    name  text primary key,
    value bytea not null
);

create table keys (
    id         text primary key,                     -- safe to log
    project    text not null references projects,
    kind       text not null check (kind in ('admin', 'secret', 'publishable')),
    hash       bytea not null unique,                -- sha256 of the key, which is random and long
    created_at timestamptz not null default now(),
    revoked_at timestamptz
);

-- A turn: one request and what was asked of the sampler. Its id is the completion id.
create table turns (
    id               text primary key,
    project          text not null references projects,
    conversation_id  text not null,
    rater            text not null,                  -- keyed hash of `user`, or of the conversation
    key_id           text not null references keys,
    messages         jsonb not null,                 -- the whole history, as sent
    prompt_token_ids integer[] not null,
    sampling         jsonb not null,                 -- temperature, top_p, max_tokens, seed, …, as applied
    metadata         jsonb not null default '{}',
    created_at       timestamptz not null default now()
);
create index turns_by_conversation on turns (project, conversation_id, created_at);
create index turns_by_rater on turns (project, rater);
create index turns_by_time on turns (project, created_at);

-- A reply: one choice of a turn, exactly as sampled.
create table replies (
    turn_id       text not null references turns on delete cascade,
    choice        integer not null,
    project       text not null references projects,
    policy        text not null,
    propensity    double precision not null,         -- probability with which the router chose the policy
    text          text not null,
    token_ids     integer[] not null,                -- end token included
    logprobs      real[] not null,                   -- nats, of the sampler, one per token
    finish_reason text not null,
    primary key (turn_id, choice)
);
create index replies_by_policy on replies (project, policy);

-- What people said of a reply. Rows are never changed but for the two columns that end them.
create table feedback (
    id              text primary key,
    event_id        text not null unique,
    project         text not null references projects,
    turn_id         text not null references turns on delete cascade,
    choice          integer,                         -- null for a ranking
    type            text not null check (type in ('thumb', 'ranking', 'edit', 'signal')),
    value           jsonb not null,                  -- the vote without any text
    text            text,                            -- an edit's text
    comment         text,
    rater           text not null,
    slot            text not null,                   -- what a new vote of the same rater supersedes
    created_at      timestamptz not null default now(),
    superseded_by   text references feedback deferrable initially deferred,
    retracted_at    timestamptz
);
create unique index feedback_standing on feedback (turn_id, rater, slot)
    where superseded_by is null and retracted_at is null;
create index feedback_by_time on feedback (project, created_at, id);

-- Safe retries: the first answer to an Idempotency-Key is the answer.
create table idempotency (
    project      text not null references projects,
    key_id       text not null references keys,
    key          text not null,
    request_hash bytea not null,
    response     jsonb not null,
    created_at   timestamptz not null default now(),
    primary key (project, key_id, key)
);

-- The log of feedback events: ids and numbers, never text. Read in the order (xid, id) and only below
-- pg_snapshot_xmin: ids are handed out before commit, so reading by id alone loses events.
create table outbox (
    id              bigint generated always as identity primary key,
    xid             xid8 not null default pg_current_xact_id(),
    project         text not null references projects,
    event_id        text not null unique,
    conversation_id text not null,                   -- the ordering key
    event           jsonb not null,
    created_at      timestamptz not null default now()
);
create index outbox_in_order on outbox (xid, id);

-- How far each consumer of a log has come, written in the transaction of what it derived.
create table positions (
    consumer   text not null,
    log        text not null,
    partition  integer not null,
    position   text not null,
    updated_at timestamptz not null default now(),
    primary key (consumer, log, partition)
);

-- What the trainer learns from: one row per feedback event that stands, joined to its text by id.
create table examples (
    event_id        text primary key,
    project         text not null references projects,
    feedback_id     text not null unique,
    turn_id         text not null,
    choice          integer,
    type            text not null,
    value           jsonb not null,
    rater           text not null,
    conversation_id text not null,
    created_at      timestamptz not null,            -- when the person voted
    ended_by        text,                            -- the event that superseded or retracted it
    first_policy    text                             -- the first published policy that trained on it
);
create index examples_standing on examples (project, created_at) where ended_by is null;
create index examples_by_policy on examples (project, first_policy);

create table policies (
    project     text not null references projects,
    id          text not null,                       -- p17-3fa9c1; p0 is the base
    parent      text,
    base_digest text not null,
    directory   text not null,
    digest      text not null,                       -- sha256 of its manifest.json, which holds the files'
    manifest    jsonb not null,
    gate        jsonb,                               -- the verdict with its figures
    state       text not null check (state in
                    ('published', 'canary', 'live', 'retired', 'rolled_back', 'rejected')),
    reason      text,                                -- why it was rejected or rolled back
    created_at  timestamptz not null default now(),
    live_at     timestamptz,                         -- when it first answered everybody
    primary key (project, id)
);
create index policies_by_state on policies (project, state, created_at);

-- Who answers: one row per project, flipped in one statement. Promotion and rollback change nothing else.
create table routes (
    project      text primary key references projects,
    live         text not null,
    previous     text not null,
    canary       text,
    canary_share double precision not null default 0 check (canary_share between 0 and 1),
    version      bigint not null default 1,
    changed_at   timestamptz not null default now(),
    foreign key (project, live) references policies (project, id),
    foreign key (project, previous) references policies (project, id),
    foreign key (project, canary) references policies (project, id)
);

create table rollouts (
    id         text primary key,
    project    text not null references projects,
    policy     text not null,
    replaces   text not null,
    kind       text not null check (kind in ('direct', 'canary')),
    share      double precision not null,
    state      text not null check (state in ('running', 'promoted', 'rolled_back')),
    reason     text,
    started_at timestamptz not null default now(),
    ended_at   timestamptz,
    foreign key (project, policy) references policies (project, id)
);
create index rollouts_by_time on rollouts (project, started_at);

-- The record of every training round, whatever came of it.
create table rounds (
    id         bigint generated always as identity primary key,
    project    text not null references projects,
    parent     text not null,
    policy     text,                                 -- what it published
    outcome    text not null check (outcome in ('running', 'published', 'rejected', 'skipped', 'failed')),
    reason     text,
    record     jsonb not null default '{}',
    started_at timestamptz not null default now(),
    ended_at   timestamptz
);
create index rounds_by_time on rounds (project, started_at);
