-- How a project's chat looks on a page (schemas/widget.py).
alter table projects add column widget jsonb not null default '{}';
