import { isBackupError } from '../core/errors.ts';
import type { LoadedDocument } from '../manifests/load.ts';
import { objectId } from '../manifests/metadata.ts';
import { secretReferences, storeReferences, type SecretReference } from '../manifests/secret-references.ts';
import type { Host } from './host.ts';
import { note } from './output.ts';

/**
 * Says which secrets the documents refer to that are neither among them nor on this host. That is no fault: the worker that
 * needs them may run elsewhere, and what waits for one goes on when it comes.
 */
export async function tellMissingSecrets(host: Host, documents: readonly LoadedDocument[]): Promise<void> {
  const given = new Set(
    documents.flatMap(({ kind, manifest }) => (kind === 'Secret' ? [objectId(manifest.metadata)] : [])),
  );
  const missing = new Map<string, Set<string>>();
  for (const document of documents) {
    const { namespace } = document.manifest.metadata;
    for (const { name, key } of referencesOf(document)) {
      const id = `${namespace}/${name}`;
      if (given.has(id) || (await isHere(host, namespace, name, key))) continue;
      missing.set(id, (missing.get(id) ?? new Set()).add(key));
    }
  }
  for (const [id, keys] of missing) {
    const [namespace = '', name = ''] = id.split('/');
    const files = [...keys].map((key) => `--from-file=${key}=./FILE`).join(' ');
    note(
      `walkeep: Secret ${id} (${[...keys].join(', ')}) is not on this host. The host of the worker needs it; there: ` +
        `walkeep create secret generic ${name} -n ${namespace} ${files}`,
    );
  }
}

function referencesOf({ kind, manifest }: LoadedDocument): SecretReference[] {
  if (kind === 'Cluster') return secretReferences(manifest);
  return kind === 'ObjectStore' ? storeReferences(manifest.spec.configuration, []) : [];
}

/** One that is there and can't be read is here: whoever reads it says why. */
async function isHere(host: Host, namespace: string, name: string, key: string): Promise<boolean> {
  return host.resolver.resolve({ namespace, name, key }).then(
    () => true,
    (error: unknown) => !isBackupError(error, 'secret-missing'),
  );
}
