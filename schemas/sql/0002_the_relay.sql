-- The outbox on its way to a broker, and what could not be read on the way back.

-- Where the broker keeps an event; null while it is not published. Rows go when every consumer has passed
-- them, so that a broker that lost its data can be given them again.
alter table outbox add column partition integer, add column "offset" bigint;
create index outbox_unpublished on outbox (xid, id) where "offset" is null;

-- Each time that a broker's topic begins anew, offsets lose their meaning: positions name their generation.
create table generations (
    topic      text not null,
    generation integer not null,
    topic_id   text,                                 -- the broker's own; null where it has none
    reason     text not null,                        -- why the one before it ended
    started_at timestamptz not null default now(),
    primary key (topic, generation)
);

-- What a log delivered and nobody could read, set aside so that what is behind it can be.
create table dead_letters (
    log        text not null,
    partition  integer not null,
    position   text not null,                        -- just behind it
    reason     text not null,
    payload    text not null,
    created_at timestamptz not null default now(),
    primary key (log, partition, position)
);
