-- Where the trainer waits before an event of a version that it does not know yet.
create table waiting (
    log       text not null,
    partition integer not null,
    version   text not null,                         -- the event's
    since     timestamptz not null default now(),
    primary key (log, partition)
);
