/**
 * Places where a test may kill, stop or fail the process: one on both sides of every irreversible step. Crash tests
 * walk this list; a place that is not in it can not be named.
 */
export const FAILPOINTS = [
  'backup.attempt-claimed',
  'backup.start-requested',
  'backup.started',
  'backup.part-before-upload',
  'backup.part-uploaded',
  'backup.part-recorded',
  'backup.before-stop',
  'backup.stopped',
  'backup.last-part-uploaded',
  'backup.copied',
  'backup.confirmed',
  'backup.before-own-record',
  'backup.before-record',
  'backup.recorded',
  'push.before-store',
  'push.stored-not-answered',
  'repair.before-replace',
  'repair.replaced',
  'restore.before-write',
  'restore.unpacked',
  'restore.settings-written',
  'restore.label-in-place',
  'restore.activated',
  'verify.scratch-made',
  'verify.restored',
  'verify.server-started',
  'verify.checked',
  'sweep.before-tombstone',
  'sweep.tombstoned',
  'sweep.before-deleting',
  'sweep.deleting',
  'sweep.before-delete-data',
  'sweep.first-part-deleted',
  'sweep.data-deleted',
  'sweep.before-delete-wal',
  'sweep.wal-deleted',
  'sweep.before-delete-record',
  'sweep.record-deleted',
  'sweep.before-grave',
  'sweep.concluded',
] as const;

export type Failpoint = (typeof FAILPOINTS)[number];

/**
 * Does nothing, unless the environment says `WALKEEP_FAILPOINT=name:kill|stop|throw`, with a number after another
 * colon for the n-th time the place is passed (1 without it), and several of them separated by commas.
 */
export function failpoint(name: Failpoint): void {
  const wanted = process.env['WALKEEP_FAILPOINT'];
  if (!wanted) return;
  for (const entry of wanted.split(',')) {
    const [place, action, nth = '1'] = entry.split(':');
    if (place !== name) continue;
    const passed = (passes.get(entry) ?? 0) + 1;
    passes.set(entry, passed);
    if (passed !== Number(nth)) continue;
    if (action === 'throw') throw new Error(`failpoint ${name}`);
    process.kill(process.pid, action === 'stop' ? 'SIGSTOP' : 'SIGKILL');
  }
}

/** How often each entry was passed; every worker thread counts for itself. */
const passes = new Map<string, number>();
