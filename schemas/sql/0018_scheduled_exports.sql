-- The order in which votes were committed, for exports that go on where the last one ended: by the transaction that
-- recorded a vote, and by the epoch of its cluster, since transaction ids begin anew after a restore into another.
alter table cluster add column epoch integer not null default 0;
alter table feedback
    add column epoch integer not null default 0,
    add column xid xid8 not null default pg_current_xact_id();
create index feedback_by_commit on feedback (project, epoch, xid, id);

-- How far the scheduled export of a project has come, in that order.
create table scheduled_exports (
    project  text primary key references projects,
    epoch    integer not null default 0,
    xid      xid8 not null default '0',
    id       text not null default '',
    to_epoch integer,                                -- up to here go the votes of `file`, which may not be complete
    to_xid   xid8,
    to_id    text,
    file     text,
    ran_at   timestamptz                             -- when all votes were exported the last time
);
