-- What was asked with each key, by day (UTC): each replica adds its counts every few seconds.
create table key_usage (
    project           text not null references projects,
    day               date not null,
    key_id            text not null references keys,
    chats             bigint not null default 0,     -- replies asked for
    votes             bigint not null default 0,
    requests          bigint not null default 0,     -- all others
    refused           bigint not null default 0,     -- for a rate limit or quota
    prompt_tokens     bigint not null default 0,
    completion_tokens bigint not null default 0,
    primary key (project, day, key_id)
);
create index key_usage_by_key on key_usage (key_id);
create index key_usage_by_day on key_usage (day);
