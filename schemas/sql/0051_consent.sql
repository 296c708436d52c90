-- Consent: a person's own choice, and what a project asks for with its publishable keys (`widget.consent`).

-- What a person chose: whether what they say and vote is kept and learned from. Like a tombstone it knows the person
-- by the hash of their pseudonym, so that a refusal outlives their erasure.
create table consents (
    project  text not null references projects,
    hash     bytea not null,                         -- see person_hash
    learning boolean not null,
    set_by   text not null,                          -- the key, or `visitor`
    set_at   timestamptz not null default now(),
    primary key (project, hash)
);

-- Whether a turn that this key asks, or a vote on it, may be stored for this person; without a key only their own
-- choice counts.
create function may_store(of_project text, of_rater text, of_key text) returns boolean
language sql stable as $$
    select case (
            select widget ->> 'consent' from projects
            where id = of_project and exists (select from keys where id = of_key and kind = 'publishable')
        )
        when 'off' then false
        when 'ask' then coalesce((
            select learning from consents where project = of_project and hash = person_hash(of_project, of_rater)
        ), false)
        else coalesce((
            select learning from consents where project = of_project and hash = person_hash(of_project, of_rater)
        ), true)
    end
$$;
