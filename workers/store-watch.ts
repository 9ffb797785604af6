import type { ClusterManifest } from '../manifests/cluster.ts';
import { openClusterRepository } from '../operations/open-repository.ts';
import { renewStoreRecord } from '../operations/renew-store-record.ts';
import type { SecretResolver } from '../operations/secret-resolver.ts';
import { weaknessesOf } from '../repository/store-record.ts';
import type { Log } from './log.ts';

export interface StoreWatchParts {
  /** The manifest this worker holds. */
  readonly manifest: () => Promise<{ readonly manifest: ClusterManifest } | undefined>;
  readonly resolver: SecretResolver;
  /** Whose data directory this is. */
  readonly identity: () => Promise<{ readonly systemId: string }>;
  readonly hasDataDirectory: () => boolean;
  readonly log: Log;
  readonly firstAfterMs?: number;
  readonly everyMs?: number;
}

const FIRST_AFTER_MS = 5_000;
const EVERY_MS = 10 * 60_000;
const LOOK_MS = 120_000;

/**
 * Knows what the store of the cluster really does (E3): tries it when nobody has for a month, or only as far as a push needs, and
 * says once in the log when it promises less than walkeep would like. Archiving does not wait for it.
 */
export function watchStore(parts: StoreWatchParts): { stop(): void } {
  const { manifest, resolver, identity, hasDataDirectory, log } = parts;
  const { firstAfterMs = FIRST_AFTER_MS, everyMs = EVERY_MS } = parts;
  const stopped = new AbortController();
  let said: string | undefined;
  let timer = setTimeout(look, firstAfterMs).unref();

  function look(): void {
    void tryIt()
      .catch((error: unknown) => log.debug({ error }, 'the store could not be tried'))
      .finally(() => {
        if (!stopped.signal.aborted) timer = setTimeout(look, everyMs).unref();
      });
  }

  async function tryIt(): Promise<void> {
    const stored = await manifest();
    if (!stored?.manifest.spec.backup?.barmanObjectStore || !hasDataDirectory()) return;
    const cluster = await identity();
    const repository = await openClusterRepository(stored.manifest, resolver);
    try {
      const signal = AbortSignal.any([stopped.signal, AbortSignal.timeout(LOOK_MS)]);
      const record = await renewStoreRecord(repository, cluster, signal);
      const weak = record ? weaknessesOf(record) : [];
      const found = JSON.stringify([repository.url, weak]);
      if (!record || said === found) return;
      said = found;
      const { url } = repository;
      if (weak.length === 0) log.info({ repository: url }, 'the store creates only, as it is asked to');
      else log.warn({ repository: url, weak }, `the store is weaker than it should be: ${weak.join('; ')}`);
    } finally {
      await repository.close();
    }
  }

  return {
    stop() {
      clearTimeout(timer);
      stopped.abort();
    },
  };
}
