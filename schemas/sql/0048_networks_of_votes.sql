-- A vote carries the network of its turn, as it carries all else that it is found and counted by: what comes from one
-- network, where no server names the person, is one person's approval.
alter table feedback add column origin text;         -- as in turns

create or replace function describe_vote() returns trigger language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
    asked   text;
    tags    text[];
    voted   text[];
    replied text;
    drawn   boolean;
begin
    select message_text(messages -> -1),
        array(select key || '=' || value from jsonb_each_text(metadata - 'conversation_id') limit 16), origin
        into asked, tags, new.origin from turns where id = new.turn_id;
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

update feedback f set origin = t.origin from turns t where t.id = f.turn_id and t.origin is not null;
