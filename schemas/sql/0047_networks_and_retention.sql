-- Rollouts count networks, and a project keeps its turns as long as it says.

-- The network that a failed request came from, where no server names the person, as in turns: what comes from one
-- network counts as one person in a rollout's evidence.
alter table rollout_failures add column origin text;

-- Days for which a project keeps its turns with their votes; null leaves it to the settings. The sooner one counts.
alter table projects add column retention_days integer check (retention_days > 0);
