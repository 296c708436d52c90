-- Where people's tastes differ: what each person's weights are under the taste model of a policy. They are numbers that
-- follow from the person's votes; whoever erases a person deletes the rows of their pseudonym.

create table person_tastes (
    project    text not null references projects,
    rater      text not null,                        -- the pseudonym, as in turns and feedback
    policy     text not null,                        -- whose taste model the weights belong to
    weights    double precision[] not null,
    votes      integer not null,                     -- that they follow from
    updated_at timestamptz not null default now(),
    primary key (project, rater, policy)
);
create index person_tastes_by_policy on person_tastes (project, policy);

create index feedback_by_rater on feedback (project, rater, created_at);
