/**
 * The name of a Backup that was started by hand: what follows `backup/<namespace>/` in the workflow id, or the
 * cluster's name and the time. A run of a `--cron` chain always gets the time, since its id never changes.
 */
export function backupNameOf(
  cluster: string,
  run: { readonly workflowId: string; readonly cronSchedule?: string | undefined },
  now: Date,
): string {
  const fromId = /^backup\/[^/]+\/([a-z0-9][-a-z0-9.]*)$/.exec(run.workflowId)?.[1];
  if (fromId !== undefined && !run.cronSchedule) return fromId;
  const stamp = now.toISOString().replaceAll(/[-:T]|\.\d+Z$/g, '');
  return `${fromId ?? cluster}-${stamp}`;
}
