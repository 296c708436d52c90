-- The relay finds the newest and the oldest published event of each partition, and a consumer those that everybody has
-- passed, without reading the others.
create index outbox_published on outbox (partition, "offset") where "offset" is not null;

-- Serving asks every second which policies of all projects wait: to be promoted, tried, or because somebody asked.
create index policies_waiting on policies (project, created_at) where state = 'published' or asked_at is not null;

-- The offsets of the newest and the oldest published event of each partition; the others lie between them. Each is one
-- step in the index, however many events there are.
create view published_outbox as
select partition, newest."offset", oldest."offset" as oldest
from generate_series(0, (select max(partition) from outbox where "offset" is not null)) as each (partition),
    lateral (
        select "offset" from outbox where outbox.partition = each.partition and "offset" is not null
        order by "offset" desc limit 1
    ) as newest,
    lateral (
        select "offset" from outbox where outbox.partition = each.partition and "offset" is not null
        order by "offset" limit 1
    ) as oldest;
