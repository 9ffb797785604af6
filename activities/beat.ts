const SECOND = 1000;

/**
 * How long to wait until the next heartbeat of a long activity. Each one that reaches the server is paid for, and
 * each one carries a cancel back: lively while people watch the beginning, once a minute afterwards, and always well
 * inside the heartbeat timeout.
 *
 * @param runningMs how long this attempt has run
 * @param timeoutMs the activity's heartbeat timeout, if it has one
 */
export function beatIntervalMs(runningMs: number, timeoutMs: number | undefined): number {
  const wanted = runningMs < 5 * 60 * SECOND ? 5 * SECOND : 60 * SECOND;
  return timeoutMs === undefined ? wanted : Math.min(wanted, timeoutMs / 3);
}
