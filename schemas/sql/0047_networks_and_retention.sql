-- The network that a failed request came from, where no server names the person, as in turns: what comes from one
-- network counts as one person in a rollout's evidence.
alter table rollout_failures add column origin text;
