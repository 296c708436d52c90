-- Demonstrations: imported turns whose request says so, which nobody voted on. They are learned from before a
-- round's reinforcement learning.

create index turns_by_demonstration on turns (project, created_at, id) where request ? 'demonstration';

-- Which of them rounds have had: how many rounds trained on each, and the policies that came of it. It goes with the
-- turn where a person is erased.
create table taught_demonstrations (
    turn_id  text collate "C" primary key,
    project  text not null references projects,
    rounds   integer not null default 0,
    policies text[] not null default '{}'
);
