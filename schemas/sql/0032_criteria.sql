-- What a judge found in a comment: the criteria that it is about, each true where the reply meets it, or why there are
-- none. It goes with the vote.
create table comment_criteria (
    feedback_id text primary key references feedback on delete cascade,
    project     text not null references projects,
    judge       text not null,
    criteria    jsonb,
    reason      text,                                -- why the judge's answer was ignored
    created_at  timestamptz not null default now()
);

-- Comments that a judge may read, the newest first. Comments are rare, so the index is small.
create index feedback_comments on feedback (project, created_at)
    where comment <> '' and superseded_by is null and retracted_at is null;
