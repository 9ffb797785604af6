import type { Repository } from '../repository/repository.ts';
import type { WalStorage } from './archive-wal.ts';

/** Where WAL goes, and how, as the applied manifest says. */
export interface ArchiveTarget {
  readonly repository: Repository;
  readonly storage: WalStorage;
  /** How many files may be uploaded at once; at least 1. */
  readonly maxParallel: number;
  /** Of the manifest. */
  readonly revision: string;
}

/** The target at this moment; opened when it is first needed, and anew when the manifest's revision changed. */
export interface ArchiveSource {
  /** @throws BackupError `cluster-unknown` when nothing is applied, and what opening says */
  current(): Promise<ArchiveTarget>;
  /** What is open now, without a look at the manifest. */
  opened(): ArchiveTarget | undefined;
  /** Opens anew next time, though the revision is the same: a secret may have been rotated. */
  forget(): void;
  close(): Promise<void>;
}

/** Uploads that have begun may go on this long after the manifest changed. */
const RETIRED_FOR_MS = 15 * 60_000;

/** A manifest as it is applied now. */
export interface ArchiveManifest {
  readonly revision: string;
  /** Changes whenever it was stored anew; by default the revision, which may begin anew when everything was lost. */
  readonly key?: string;
  open(): Promise<Omit<ArchiveTarget, 'revision'>>;
}

/** @param read the applied manifest (cheap: it is asked for every file), and how to open what it says */
export function createArchiveSource(read: () => Promise<ArchiveManifest>): ArchiveSource {
  let present: { key: string; target: Promise<ArchiveTarget> } | undefined;
  let opened: ArchiveTarget | undefined;
  const retired = new Map<ArchiveTarget, NodeJS.Timeout>();

  const close = async (target: ArchiveTarget) => {
    clearTimeout(retired.get(target));
    retired.delete(target);
    await target.repository.close();
  };
  const retire = () => {
    const old = opened;
    present = undefined;
    opened = undefined;
    // nothing uses it by then; a failure to let go of connections is nobody's
    if (old)
      retired.set(old, setTimeout(() => void close(old).catch(() => undefined), RETIRED_FOR_MS).unref());
  };

  return {
    async current() {
      const manifest = await read();
      const { revision, key = revision } = manifest;
      if (present?.key === key) return present.target;
      retire();
      const target = manifest.open().then((found) => ({ ...found, revision }));
      const mine = { key, target };
      present = mine;
      try {
        const found = await target;
        if (present === mine) opened = found;
        return found;
      } catch (error) {
        // a failure is no answer to the next question (A5)
        if (present === mine) present = undefined;
        throw error;
      }
    },
    opened: () => opened,
    forget: retire,
    async close() {
      if (opened)
        retired.set(
          opened,
          setTimeout(() => undefined, 0),
        );
      present = undefined;
      opened = undefined;
      await Promise.all([...retired.keys()].map(close));
    },
  };
}
