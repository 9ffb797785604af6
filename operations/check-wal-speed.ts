import type { ClusterManifest } from '../manifests/cluster.ts';
import { codecOf } from './open-repository.ts';
import type { CheckItem } from './check-cluster.ts';

const MIB = 1024 * 1024;
const MB = 1_000_000;
/** How long PostgreSQL's `archive_command` is given for one file, compressed, proved and stored. */
const DEADLINE_SECONDS = 60;
/** What must be left of it for the store, and for a machine that has other things to do. */
const RESERVE_SECONDS = 20;
/** MB/s of compressing and of proving, as docs/repository.md has them; the other codecs are ten times as fast. */
const SLOW = { bzip2: [8, 20], xz: [2, 50] } as const;

/** Whether WAL is compressed fast enough for `archive_command`; nothing where no codec is slow. */
export function walSpeedItem(manifest: ClusterManifest, segmentSize: number): CheckItem | undefined {
  const codec = codecOf(manifest.spec.backup?.barmanObjectStore?.wal.compression);
  if (codec !== 'bzip2' && codec !== 'xz') return undefined;
  const [compress, prove] = SLOW[codec];
  const seconds = Math.ceil(segmentSize / MB / compress + segmentSize / MB / prove);
  const item = 'WAL compression';
  const found = `${codec} takes about ${seconds} s for a segment of ${segmentSize / MIB} MiB on a small machine`;
  if (seconds <= DEADLINE_SECONDS - RESERVE_SECONDS) return { item, state: 'ok', found };
  return {
    item,
    state: 'warning',
    found: `${found}, and archive_command has to be answered within ${DEADLINE_SECONDS} s: WAL may pile up in pg_wal`,
    todo: 'write another wal.compression: zstd, lz4 or gzip',
  };
}
