-- Moves all leases that are not closed from earlier holders to a new one, in one call, because a restarted replica may
-- have a hundred thousand. The rule is `adopt` of src/domain/ledger/escrow.rs. Gives the new holder's open leases.
CREATE FUNCTION bursar_adopt(p_from TEXT[], p_to TEXT, p_ttl_ms BIGINT, p_now_ms BIGINT) RETURNS SETOF lease
LANGUAGE plpgsql
-- Row by row through the keys: no plan may depend on what is known of a holder.
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_material = off SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
  until_ms CONSTANT BIGINT := bursar_plus(bursar_now(p_now_ms), p_ttl_ms);
BEGIN
  -- In the order in which everybody locks accounts.
  PERFORM FROM account t
    JOIN (SELECT DISTINCT l.workspace, l.budget, l.generation, l.dimension, l.target, l.window_label FROM lease l
          WHERE l.holder || '' = ANY (p_from || p_to) AND l.state <> 'closed') k
      ON t.workspace = k.workspace AND t.budget = k.budget AND t.generation = k.generation
        AND t.dimension = k.dimension AND t.target = k.target AND t.window_label = k.window_label
    ORDER BY t.workspace, t.budget, t.generation, array_position(ARRAY['cost', 'tokens', 'requests'], t.dimension),
      t.target, t.window_label
    FOR NO KEY UPDATE OF t;

  -- Two earlier holders never have the same epoch of an account; should they, the second lease just expires.
  UPDATE lease t SET holder = p_to, expires_at_ms = until_ms, look_at_ms = until_ms
  FROM (SELECT DISTINCT ON (l.workspace, l.budget, l.generation, l.dimension, l.target, l.window_label, l.epoch) l.*
        FROM lease l WHERE l.holder || '' = ANY (p_from) AND l.holder <> p_to AND l.state <> 'closed'
        ORDER BY l.workspace, l.budget, l.generation, l.dimension, l.target, l.window_label, l.epoch, l.holder) k
  WHERE t.workspace = k.workspace AND t.budget = k.budget AND t.generation = k.generation
    AND t.dimension = k.dimension AND t.target = k.target AND t.window_label = k.window_label
    AND t.holder = k.holder AND t.epoch = k.epoch
    AND NOT EXISTS (SELECT FROM lease o
      WHERE o.workspace = k.workspace AND o.budget = k.budget AND o.generation = k.generation
        AND o.dimension = k.dimension AND o.target = k.target AND o.window_label = k.window_label
        AND o.holder = p_to AND o.epoch = k.epoch);

  -- What had expired is lent again: its user is known.
  UPDATE account t SET forfeited = t.forfeited - k.outstanding, leased = t.leased + k.outstanding,
      holders = t.holders + k.leases
  FROM (SELECT l.workspace, l.budget, l.generation, l.dimension, l.target, l.window_label, count(*) AS leases,
          sum(l.granted - l.consumed - l.returned)::bigint AS outstanding
        FROM lease l WHERE l.holder || '' = p_to AND l.state = 'expired' GROUP BY 1, 2, 3, 4, 5, 6) k
  WHERE t.workspace = k.workspace AND t.budget = k.budget AND t.generation = k.generation
    AND t.dimension = k.dimension AND t.target = k.target AND t.window_label = k.window_label;

  UPDATE lease t SET state = 'active', expires_at_ms = until_ms, look_at_ms = until_ms
  WHERE t.holder || '' = p_to AND (t.state = 'expired' OR t.state = 'active' AND t.expires_at_ms <> until_ms);

  RETURN QUERY SELECT * FROM lease t WHERE t.holder || '' = p_to AND t.state <> 'closed';
END $$;
