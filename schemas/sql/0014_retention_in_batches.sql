-- Retention in short transactions: the votes of an ended week go in batches, then the week is dropped.

-- Deleting a vote looks for those that it superseded.
create index feedback_by_successor on feedback (superseded_by) where superseded_by is not null;

drop function drop_turn_weeks;

-- The id before which turns are of weeks that ended before `moment`; null where no week did.
create function ended_turns_bound(moment timestamptz) returns text language sql stable as $$
    select turn_bound(max(ends)) from turn_weeks() where ends <= moment
$$;

-- Drops the oldest week that ended before `moment`, with its turns and replies; which one, or null. Its votes must be
-- gone: a foreign key says so. Gives up at once where it would have to wait for a lock, as everybody would then wait
-- behind it.
create function drop_turn_week(moment timestamptz) returns text language plpgsql
set lock_timeout = '200ms' as $$
declare
    week text := (select suffix from turn_weeks() where ends <= moment order by begins limit 1);
begin
    if week is not null then
        execute format('drop table %I', 'replies_' || week);
        execute format('alter table turns detach partition %I', 'turns_' || week);
        execute format('drop table %I', 'turns_' || week);
    end if;
    return week;
end
$$;
