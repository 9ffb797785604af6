import { BackupError } from '../core/errors.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { formatProblem, hasErrors, loadManifests, type LoadedDocument } from '../manifests/load.ts';
import { readManifestSources } from '../operations/read-manifests.ts';
import type { StateDirectory } from '../operations/state-directory.ts';
import { knownObjectStores } from './object-stores.ts';
import { note } from './output.ts';
import { readStandardInput } from './standard-input.ts';

/** Which of the Clusters in some files. */
export interface WantedCluster {
  readonly namespace: string;
  /** Absent: the only one. */
  readonly cluster?: string | undefined;
}

/**
 * A Cluster that is not applied, by `-f`. Problems of the files are printed.
 *
 * @param files `-` is standard input
 * @returns it, and all that stands beside it
 * @throws BackupError `manifest-invalid`, or `usage` when it is not one that is meant
 */
export async function clusterFromFiles(
  state: StateDirectory,
  files: readonly string[],
  { namespace, cluster: wanted }: WantedCluster,
): Promise<{ readonly manifest: ClusterManifest; readonly documents: readonly LoadedDocument[] }> {
  const sources = await readManifestSources(files, readStandardInput);
  const objectStores = await knownObjectStores(state);
  const { documents, problems } = loadManifests(sources, { now: new Date(), objectStores });
  for (const problem of problems) if (problem.severity !== 'note') note(formatProblem(problem));
  if (hasErrors(problems)) throw new BackupError('manifest-invalid', 'the manifest was refused');
  const clusters = documents.flatMap((document) => (document.kind === 'Cluster' ? [document.manifest] : []));
  const fitting =
    wanted === undefined
      ? clusters
      : clusters.filter(({ metadata }) => metadata.name === wanted && metadata.namespace === namespace);
  const [manifest] = fitting;
  if (manifest !== undefined && fitting.length === 1) return { manifest, documents };
  const names = clusters.map(({ metadata }) => metadata.name).join(', ') || 'none';
  throw new BackupError(
    'usage',
    `${fitting.length > 1 ? 'several Clusters are' : `no Cluster${wanted ? ` ${wanted}` : ''} is`} in ${files.join(', ')} (there are: ${names})`,
    { hint: 'name the one that is meant' },
  );
}
