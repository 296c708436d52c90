-- Votes are found by what they say, and by what they were said of: the console filters, counts and exports them.
--
-- Each vote has its facets and its words in its own row, so that a filter is one index and joins nothing. A trigger
-- writes them, whoever stores the vote: also an import, and processes of the release before.

alter table feedback
    add column policy text,                          -- of the reply; null for a ranking of several policies' replies
    add column facets text[],                        -- what a filter may ask for: `reason:concise`, `tag:team=web`, …
    add column words tsvector;                       -- of the last message, the replies, the edit and the comment

-- The text of a message, whose content may be a list of parts.
create function message_text(message jsonb) returns text language sql immutable as $$
    select case jsonb_typeof(message -> 'content')
        when 'string' then message ->> 'content'
        when 'array' then (
            select string_agg(part ->> 'text', ' ') from jsonb_array_elements(message -> 'content') as part
        )
    end
$$;

-- A facet has at most 200 characters, as an index has no room for longer ones. Plans are kept: to plan anew over all
-- partitions takes longer than the rest.
create function describe_vote() returns trigger language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
    asked   text;
    tags    text[];
    voted   text[];
    replied text;
    drawn   boolean;
begin
    select message_text(messages -> -1),
        array(select key || '=' || value from jsonb_each_text(metadata - 'conversation_id') limit 16)
        into asked, tags from turns where id = new.turn_id;
    select array_agg(distinct r.policy), string_agg(left(r.text, 20000), ' '), bool_and(r.propensity < 1)
        into voted, replied, drawn from replies r
        where r.turn_id = new.turn_id and (new.choice is null or r.choice = new.choice);
    new.policy := case when cardinality(voted) = 1 then voted[1] end;
    new.facets := array(
        select distinct left(facet, 200) from (
            values ('project:' || new.project), ('type:' || new.type), ('rater:' || new.rater),
                ('value:' || coalesce(new.value ->> 'value', new.value ->> 'signal')),
                (case when new.value -> 'acceptable' = 'false' then 'value:none' end),
                (case when drawn then 'drawn' end),
                (case when new.comment <> '' then 'comment' end)
            union all select 'reason:' || reason from jsonb_array_elements_text(
                case jsonb_typeof(new.value -> 'reasons') when 'array' then new.value -> 'reasons' end
            ) as reason
            union all select 'policy:' || policy from unnest(voted) as policy
            union all select 'tag:' || tag from unnest(tags) as tag
        ) as described (facet) where facet is not null
    );
    new.words := to_tsvector(
        'simple', concat_ws(' ', left(asked, 20000), left(replied, 40000), left(new.text, 20000), new.comment)
    );
    return new;
end
$$;
create trigger describe_vote before insert or update of facets on feedback
    for each row execute function describe_vote();

update feedback set facets = null;
create index feedback_by_facet on feedback using gin (facets, words);

-- The newest replies of a policy.
create index replies_by_policy_and_time on replies (project, policy, turn_id);
