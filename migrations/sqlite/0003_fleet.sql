-- How often a holder needed what others had idle.
ALTER TABLE account ADD COLUMN recalls INTEGER NOT NULL DEFAULT 0;
-- How often the budget's counters were started anew.
ALTER TABLE budget ADD COLUMN resets INTEGER NOT NULL DEFAULT 0;
