import { openClusterRepository } from '../operations/open-repository.ts';
import { readProtectionAges, type ProtectionAges } from '../operations/protection-ages.ts';
import type { SecretResolver } from '../operations/secret-resolver.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import type { Log } from './log.ts';

export interface ProtectionWatchParts {
  /** The manifest this worker holds. */
  readonly manifest: () => Promise<{ readonly manifest: ClusterManifest } | undefined>;
  readonly resolver: SecretResolver;
  readonly log: Log;
}

export interface ProtectionWatch {
  /** As it was read last; `undefined` before that. */
  ages(): ProtectionAges | undefined;
  stop(): void;
}

const FIRST_AFTER_MS = 10_000;
const EVERY_MS = 10 * 60_000;
const READ_MS = 60_000;

/**
 * Reads every ten minutes from the repository how old the newest backup and the newest proof are, for the metrics.
 * It needs neither Temporal nor a schedule: that both have stopped is what it is to show.
 */
export function watchProtection({ manifest, resolver, log }: ProtectionWatchParts): ProtectionWatch {
  const stopped = new AbortController();
  let newest: ProtectionAges | undefined;
  let timer = setTimeout(look, FIRST_AFTER_MS).unref();

  function look(): void {
    void read()
      .catch((error: unknown) =>
        log.debug({ error }, 'the repository could not be looked at for the metrics'),
      )
      .finally(() => {
        if (!stopped.signal.aborted) timer = setTimeout(look, EVERY_MS).unref();
      });
  }

  async function read(): Promise<void> {
    const stored = await manifest();
    if (!stored?.manifest.spec.backup?.barmanObjectStore) return;
    const repository = await openClusterRepository(stored.manifest, resolver);
    try {
      const signal = AbortSignal.any([stopped.signal, AbortSignal.timeout(READ_MS)]);
      newest = await readProtectionAges(repository, { signal });
    } finally {
      await repository.close();
    }
  }

  return {
    ages: () => newest,
    stop() {
      clearTimeout(timer);
      stopped.abort();
    },
  };
}
