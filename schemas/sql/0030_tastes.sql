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

-- Replies to prompts that anybody may see, from which pairs are picked to ask a person about.
create table taste_questions (
    project          text not null references projects,
    policy           text not null,                  -- that answered, and whose taste model valued the replies
    prompt           text not null,
    messages         jsonb not null,                 -- the prompt, as the model read it
    prompt_token_ids integer[] not null,
    sampling         jsonb not null,
    replies          jsonb not null,                 -- text, token_ids, logprobs, finish_reason, values
    created_at       timestamptz not null default now(),
    primary key (project, policy, prompt)
);

create index turns_by_question on turns (project, rater, created_at) where request ? 'question';
create index feedback_by_rater on feedback (project, rater, created_at);
