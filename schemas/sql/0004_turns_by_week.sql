-- Turns and replies in weekly partitions, so that old ones go all at once.
--
-- A turn's id begins with its time (schemas.turns.new_id), so the id alone leads to the week: what refers to a
-- turn and who looks one up need nothing else. Ids without a time, of older Hearkens, stay apart.

alter table replies drop constraint replies_turn_id_fkey;
alter table feedback drop constraint feedback_turn_id_fkey;
alter table replies rename to replies_undated;
alter table turns rename to turns_undated;
alter index turns_pkey rename to turns_undated_pkey;
alter index turns_by_conversation rename to turns_undated_by_conversation;
alter index turns_by_rater rename to turns_undated_by_rater;
alter index turns_by_time rename to turns_undated_by_time;
alter index replies_pkey rename to replies_undated_pkey;
alter index replies_by_policy rename to replies_undated_by_policy;
-- Byte by byte, as ids sort by their time.
alter table turns_undated alter id type text collate "C";
alter table replies_undated alter turn_id type text collate "C";
alter table feedback alter turn_id type text collate "C";

create table turns (
    id               text collate "C" primary key,
    project          text not null references projects,
    conversation_id  text not null,
    rater            text not null,                  -- keyed hash of `user`, or of the conversation
    key_id           text not null references keys,
    messages         jsonb not null,                 -- the whole history, as sent
    prompt_token_ids integer[] not null,
    sampling         jsonb not null,                 -- temperature, top_p, max_tokens, seed, …, as applied
    metadata         jsonb not null default '{}',
    created_at       timestamptz not null default now()
) partition by range (id);
create index turns_by_conversation on turns (project, conversation_id, created_at);
create index turns_by_rater on turns (project, rater);
create index turns_by_time on turns (project, created_at);

create table replies (
    turn_id       text collate "C" not null references turns on delete cascade,
    choice        integer not null,
    project       text not null references projects,
    policy        text not null,
    propensity    double precision not null,         -- probability with which the router chose the policy
    text          text not null,
    token_ids     integer[] not null,                -- end token included
    logprobs      real[] not null,                   -- nats, of the sampler, one per token
    finish_reason text not null,
    primary key (turn_id, choice)
) partition by range (turn_id);
create index replies_by_policy on replies (project, policy);

-- What the checks say need not be looked for when a week is added.
alter table turns_undated add check (id < 'chatcmpl-t0' or id >= 'chatcmpl-tg');
alter table replies_undated add check (turn_id < 'chatcmpl-t0' or turn_id >= 'chatcmpl-tg');
alter table turns attach partition turns_undated default;
alter table replies attach partition replies_undated default;
alter table feedback add constraint feedback_turn_id_fkey
    foreign key (turn_id) references turns on delete cascade;

create index feedback_by_turn on feedback (turn_id);
create index idempotency_by_time on idempotency (created_at);

-- The least id of a turn of that moment.
create function turn_bound(moment timestamptz) returns text language sql immutable strict as $$
    select 'chatcmpl-t' || lpad(to_hex((extract(epoch from moment) * 1000)::bigint), 12, '0')
$$;

-- The weeks that there are partitions for, each by its Monday (UTC) and its bounds.
create function turn_weeks() returns table (suffix text, begins timestamptz, ends timestamptz)
language sql stable as $$
    select right(relname, 8), week, week + interval '168 hours'
    from pg_inherits
    join pg_class on pg_class.oid = inhrelid,
    lateral (select to_date(right(relname, 8), 'YYYYMMDD')::timestamp at time zone 'UTC' as week) as monday
    where inhparent = 'turns'::regclass and relname ~ '^turns_[0-9]{8}$'
$$;

-- Partitions from last week to the week of `until`; how many were missing. Gives up at once where it would have
-- to wait for a lock, as everybody would then wait behind it.
create function add_turn_weeks(until timestamptz) returns integer language plpgsql
set lock_timeout = '200ms' as $$
declare
    monday  timestamptz := date_trunc('week', now() - interval '168 hours', 'UTC');
    suffix  text;
    added   integer := 0;
begin
    while monday <= until loop
        suffix := to_char(monday at time zone 'UTC', 'YYYYMMDD');
        if to_regclass('turns_' || suffix) is null then
            execute format('create table %I partition of turns for values from (%L) to (%L)',
                'turns_' || suffix, turn_bound(monday), turn_bound(monday + interval '168 hours'));
            execute format('create table %I partition of replies for values from (%L) to (%L)',
                'replies_' || suffix, turn_bound(monday), turn_bound(monday + interval '168 hours'));
            added := added + 1;
        end if;
        monday := monday + interval '168 hours';
    end loop;
    return added;
end
$$;

-- Turns of the weeks that ended before `moment`, with their replies and the votes on them, and turns without a
-- week from before it; how many weeks went.
create function drop_turn_weeks(moment timestamptz) returns integer language plpgsql
set lock_timeout = '200ms' as $$
declare
    week    record;
    dropped integer := 0;
begin
    for week in select * from turn_weeks() where ends <= moment order by begins loop
        delete from feedback where turn_id >= turn_bound(week.begins) and turn_id < turn_bound(week.ends);
        execute format('drop table %I', 'replies_' || week.suffix);
        execute format('alter table turns detach partition %I', 'turns_' || week.suffix);
        execute format('drop table %I', 'turns_' || week.suffix);
        dropped := dropped + 1;
    end loop;
    delete from turns_undated where created_at < moment;
    return dropped;
end
$$;

select add_turn_weeks(now() + interval '1344 hours');
