-- Engines on which an adapter passed its check, so that each adapter is checked once per engine and not once per
-- serving process. Whoever loads an adapter removes its row first. The addresses are those that all processes see.
create table adapter_checks (
    engine          text not null,
    adapter         text not null,
    checked_at      timestamptz not null default now(),
    primary key (adapter, engine)
);

create index adapter_checks_checked_at on adapter_checks (checked_at);
