import type { HoldPorts } from '../activities/holds.ts';
import { setAnnotatedHold } from '../operations/hold-by-annotation.ts';
import { openClusterRepository } from '../operations/open-repository.ts';
import type { SecretResolver } from '../operations/secret-resolver.ts';

/** Holds in the repository that a manifest names, with the keys of this worker. */
export function createHoldPorts(resolver: SecretResolver): HoldPorts {
  return {
    async setHold({ manifest, backupId, reason }, signal) {
      const repository = await openClusterRepository(manifest, resolver);
      try {
        await setAnnotatedHold(repository, { backupId, reason }, signal);
      } finally {
        await repository.close();
      }
    },
  };
}
