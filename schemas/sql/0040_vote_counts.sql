-- How many things people have voted on, kept while votes arrive: whoever flips a vote a hundred times adds nothing.

create table vote_counts (
    project text primary key references projects,
    votes   bigint not null                          -- without signals and judges' votes; it only grows
);

-- A trigger, so that the trainer of the release before counts too.
create function count_vote() returns trigger language plpgsql as $$
begin
    if not exists (
        select from training_examples where turn_id = new.turn_id and rater = new.rater and type = new.type
            and choice is not distinct from new.choice and event_id <> new.event_id
    ) then
        insert into vote_counts (project, votes) values (new.project, 1)
        on conflict (project) do update set votes = vote_counts.votes + 1;
    end if;
    return null;
end $$;
create trigger count_vote after insert on training_examples for each row
    when (new.type <> 'signal' and not starts_with(new.rater, 'judge:')) execute function count_vote();

-- What arrived before is counted as before, with flips: the records of rounds have such counts.
insert into vote_counts (project, votes)
select id, (
        select count(*) from training_examples e
        where e.project = p.id and e.type <> 'signal' and not starts_with(e.rater, 'judge:')
    ) + (select coalesce(sum(votes), 0)::bigint from erasures where project = p.id)
from projects p;
