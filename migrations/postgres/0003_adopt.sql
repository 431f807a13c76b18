-- Puts on record that a new holder speaks for earlier ones, and tells whether it does: not when it was taken over itself. No
-- lease is written, because a restarted replica may have a hundred thousand.
CREATE FUNCTION bursar_take_over(p_from TEXT[], p_to TEXT, p_ttl_ms BIGINT, p_now_ms BIGINT) RETURNS BOOLEAN
LANGUAGE plpgsql AS $$
BEGIN
  -- What the earlier holders have under way is applied by now, or it is not applied at all.
  PERFORM bursar_lock_holders(p_from || p_to, false);
  IF EXISTS (SELECT FROM takeover t WHERE t.holder = p_to) THEN RETURN false; END IF;
  INSERT INTO takeover (holder, successor, spared_until_ms)
    SELECT DISTINCT k.holder, p_to, bursar_plus(bursar_now(p_now_ms), p_ttl_ms)
    FROM unnest(p_from) AS k(holder) WHERE k.holder <> p_to
    ON CONFLICT (holder) DO UPDATE SET successor = excluded.successor, spared_until_ms = excluded.spared_until_ms;
  RETURN true;
END $$;
