import { z } from 'zod';
import { isRetentionPolicy } from '../core/retention-policy.ts';
import { BARMAN_PLUGIN, isBarmanPlugin } from './barman-plugin.ts';
import { closestName } from './closest-name.ts';
import { externalClusterSchema, pluginSchema, reviewExternalClusters } from './external-cluster.ts';
import { flag, nameFault, plainText, textMap, textThat } from './fields.ts';
import { metadataSchema } from './metadata.ts';
import { barmanObjectStoreSchema, reviewObjectStore } from './object-store.ts';
import { parseDestination } from './object-store-location.ts';
import { show, type FieldPath, type Finding } from './problem.ts';
import { recoverySchema, reviewRecovery } from './recovery.ts';

export const CNPG_API = 'postgresql.cnpg.io/v1';

/** On which instance a base backup is taken. */
export const backupTarget = z.enum(['primary', 'prefer-standby']);

/** How an online volume snapshot begins and ends. */
export const onlineConfiguration = z.object({
  waitForArchive: flag.default(true),
  immediateCheckpoint: flag.default(false),
});

const volumeSnapshot = z.object({
  labels: textMap.optional(),
  annotations: textMap.optional(),
  className: plainText.optional(),
  walClassName: plainText.optional(),
  tablespaceClassName: textMap.optional(),
  snapshotOwnerReference: z.enum(['none', 'cluster', 'backup']).default('none'),
  online: flag.default(true),
  onlineConfiguration: onlineConfiguration.prefault({}),
});

/** `retentionPolicy`, of a Cluster and of an ObjectStore. */
export const retentionPolicy = textThat((text) =>
  isRetentionPolicy(text)
    ? undefined
    : {
        message: `${show(text)} is no retention policy`,
        fix: 'write a number from 1 and d, w or m, without spaces: 30d, 4w, 6m',
      },
);

/** PostgreSQL's own settings that decide whether archiving and recovery work; `check` compares them. */
const WATCHED_PARAMETERS = [
  'archive_mode',
  'archive_command',
  'archive_library',
  'archive_timeout',
  'wal_level',
  'full_page_writes',
  'restore_command',
];

const parameters = z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])).transform((all) =>
  Object.fromEntries(
    Object.entries(all)
      .filter(([key]) => WATCHED_PARAMETERS.includes(key))
      .map(([key, value]) => [key, String(value)]),
  ),
);

const clusterSpec = z.object({
  /** Shown only; walkeep starts no instances. */
  instances: z.int().min(1).optional(),
  imageName: z.string().optional(),
  backup: z
    .object({
      barmanObjectStore: barmanObjectStoreSchema.optional(),
      volumeSnapshot: volumeSnapshot.optional(),
      retentionPolicy: retentionPolicy.optional(),
      target: backupTarget.default('prefer-standby'),
    })
    .optional(),
  bootstrap: z
    .object({
      recovery: recoverySchema.optional(),
      initdb: z
        .looseObject({})
        .transform(() => ({}))
        .optional(),
      pg_basebackup: z
        .looseObject({})
        .transform(() => ({}))
        .optional(),
    })
    .optional(),
  externalClusters: z.array(externalClusterSchema).default([]),
  plugins: z.array(pluginSchema).default([]),
  postgresql: z
    .looseObject({ parameters: parameters.optional() })
    .transform(({ parameters: kept }) => ({ parameters: kept ?? {} }))
    .optional(),
  walStorage: z
    .looseObject({})
    .transform(() => ({}))
    .optional(),
  tablespaces: z.array(z.looseObject({ name: z.string() }).transform(({ name }) => ({ name }))).optional(),
});

/**
 * A CNPG Cluster, as far as walkeep acts on it. What it does not act on is dropped: an environment or a connection
 * parameter may hold a password, and this value is kept in files and in workflow histories.
 */
export const clusterSchema = z.object({
  apiVersion: z.literal(CNPG_API),
  kind: z.literal('Cluster'),
  metadata: metadataSchema,
  spec: clusterSpec,
});
export type ClusterManifest = z.infer<typeof clusterSchema>;

/** The parts of a Cluster's spec that walkeep acts on: a misspelt one must never pass as a field it leaves aside. */
export const ACTED_ON: readonly string[] = ['backup', 'bootstrap', 'externalClusters', 'plugins'];

/** Every field of `Cluster.spec` in CNPG, so that a misspelt one can be told from one walkeep leaves alone. */
export const CLUSTER_SPEC_FIELDS: readonly string[] = [
  'affinity',
  'backup',
  'bootstrap',
  'certificates',
  'description',
  'enablePDB',
  'enableSuperuserAccess',
  'env',
  'envFrom',
  'ephemeralVolumeSource',
  'ephemeralVolumesSizeLimit',
  'externalClusters',
  'failoverDelay',
  'imageCatalogRef',
  'imageName',
  'imagePullPolicy',
  'imagePullSecrets',
  'inheritedMetadata',
  'instances',
  'livenessProbeTimeout',
  'logLevel',
  'managed',
  'maxSyncReplicas',
  'minSyncReplicas',
  'monitoring',
  'nodeMaintenanceWindow',
  'plugins',
  'podSecurityContext',
  'podSelectorRefs',
  'postgresGID',
  'postgresUID',
  'postgresql',
  'primaryUpdateMethod',
  'primaryUpdateStrategy',
  'priorityClassName',
  'probes',
  'projectedVolumeTemplate',
  'replica',
  'replicationSlots',
  'resources',
  'schedulerName',
  'seccompProfile',
  'securityContext',
  'serviceAccountName',
  'serviceAccountTemplate',
  'smartShutdownTimeout',
  'startDelay',
  'stopDelay',
  'storage',
  'superuserSecret',
  'switchoverDelay',
  'tablespaces',
  'topologySpreadConstraints',
  'walStorage',
];

/** The rules of a Cluster that concern more than one field. */
export function reviewCluster(cluster: ClusterManifest): Finding[] {
  return [
    ...reviewName(cluster),
    ...reviewBackup(cluster, ['spec', 'backup']),
    ...reviewBootstrap(cluster, ['spec', 'bootstrap']),
    ...reviewExternalClusters(cluster.spec.externalClusters, ['spec', 'externalClusters']),
    ...reviewPlugins(cluster, ['spec', 'plugins']),
    ...reviewParameters(cluster.spec.postgresql?.parameters ?? {}, ['spec', 'postgresql', 'parameters']),
  ];
}

function reviewName({ metadata: { name } }: ClusterManifest): Finding[] {
  const path = ['metadata', 'name'];
  const fault =
    nameFault(name, 50) ?? (/^[a-z][a-z0-9-]*$/.test(name) ? undefined : { message: '', fix: '' });
  if (!fault) return [];
  const message = `CNPG itself refuses ${show(name)} as the name of a Cluster`;
  const fix = 'it wants a letter first, then letters, digits and -, at most 50 characters';
  return [{ path, message, fix, severity: 'warning' }];
}

function reviewBackup(cluster: ClusterManifest, path: FieldPath): Finding[] {
  const { backup, plugins, bootstrap } = cluster.spec;
  if (!backup) {
    if (bootstrap?.recovery || plugins.some((plugin) => plugin.enabled)) return [];
    const message = 'there is no spec.backup: nothing of this cluster is archived or backed up';
    const fix = `${switchedOn(plugins)}add spec.backup.barmanObjectStore`;
    return [{ path: ['spec'], message, fix, severity: 'warning' }];
  }
  const findings: Finding[] = [];
  const { barmanObjectStore, volumeSnapshot: snapshot } = backup;
  if (barmanObjectStore)
    findings.push(...reviewObjectStore(barmanObjectStore, [...path, 'barmanObjectStore']));
  if (snapshot) findings.push(...reviewSnapshot(cluster, [...path, 'volumeSnapshot']));
  if (!barmanObjectStore && !snapshot && !plugins.some((plugin) => plugin.enabled)) {
    const message = 'it does not say where to: nothing of this cluster is archived or backed up';
    const fix = `${switchedOn(plugins)}add barmanObjectStore with destinationPath`;
    findings.push({ path, message, fix, severity: 'warning' });
  }
  if (!barmanObjectStore && backup.retentionPolicy !== undefined) {
    const byPlugin = plugins.some(isBarmanPlugin);
    const message = byPlugin
      ? "has no part in it: how long backups are kept says the Barman plugin's ObjectStore"
      : 'retentionPolicy only concerns an object store, and there is no barmanObjectStore';
    const fix = byPlugin
      ? 'write it as spec.retentionPolicy of the ObjectStore, and remove it here'
      : 'add barmanObjectStore, or remove retentionPolicy';
    findings.push({ path: [...path, 'retentionPolicy'], message, fix, severity: 'warning' });
  }
  return findings;
}

/** What else there is to do where the Barman plugin is there, and does nothing. */
function switchedOn(plugins: ClusterManifest['spec']['plugins']): string {
  const isOff = plugins.some(({ name, enabled }) => name === BARMAN_PLUGIN && !enabled);
  return isOff ? `plugin ${show(BARMAN_PLUGIN)} is switched off: remove its "enabled: false", or ` : '';
}

function reviewSnapshot(cluster: ClusterManifest, path: FieldPath): Finding[] {
  const declared = (cluster.spec.tablespaces ?? []).map((tablespace) => tablespace.name);
  const unknown = Object.keys(cluster.spec.backup?.volumeSnapshot?.tablespaceClassName ?? {}).filter(
    (name) => !declared.includes(name),
  );
  return [
    ...unknown.map((name) => ({
      path: [...path, 'tablespaceClassName', name],
      message: `the cluster declares no tablespace ${show(name)}`,
      fix: declared.length === 0 ? 'there is no spec.tablespaces' : `there are: ${declared.join(', ')}`,
      severity: 'error' as const,
    })),
    {
      path,
      message: 'accepted; a Backup with method volumeSnapshot outside Kubernetes fails at once and says so',
      fix: 'for backups anywhere add barmanObjectStore',
      severity: 'warning',
    },
  ];
}

function reviewBootstrap(cluster: ClusterManifest, path: FieldPath): Finding[] {
  const { bootstrap, externalClusters, walStorage } = cluster.spec;
  if (!bootstrap) return [];
  const ways = (['initdb', 'recovery', 'pg_basebackup'] as const).filter(
    (way) => bootstrap[way] !== undefined,
  );
  const findings: Finding[] = [];
  if (ways.length > 1) {
    const message = `${ways.join(' and ')} are given; a cluster begins in one way`;
    findings.push({ path, message, fix: 'keep one', severity: 'error' });
  }
  const { recovery } = bootstrap;
  if (!recovery) return findings;
  const here = [...path, 'recovery'];
  findings.push(...reviewRecovery(recovery, externalClusters, walStorage !== undefined, here));
  findings.push(...reviewOwnArchive(cluster, here));
  return findings;
}

/** A recovered cluster is a new one: archiving into what it was recovered from would end the original's archive. */
export function reviewOwnArchive(cluster: ClusterManifest, path: FieldPath): Finding[] {
  const own = cluster.spec.backup?.barmanObjectStore;
  const source = cluster.spec.externalClusters.find(
    ({ name }) => name === cluster.spec.bootstrap?.recovery?.source,
  );
  const from = source?.barmanObjectStore;
  const unchecked = cluster.metadata.annotations['cnpg.io/skipEmptyWalArchiveCheck'] === 'enabled';
  if (!own || !source || !from) return [];
  const ownServer = own.serverName ?? cluster.metadata.name;
  const url = parseDestination(own.destinationPath).url;
  const same =
    url === parseDestination(from.destinationPath).url &&
    (own.endpointURL ?? '') === (from.endpointURL ?? '') &&
    ownServer === (from.serverName ?? source.name);
  if (!same) return [];
  return [
    {
      path,
      message: `the recovered cluster would archive into ${url}/${ownServer}, the very repository it is recovered from`,
      fix: cluster.spec.plugins.some(isBarmanPlugin)
        ? 'give its plugin a serverName of its own: parameters.serverName'
        : 'give spec.backup.barmanObjectStore its own serverName',
      severity: unchecked ? 'warning' : 'error',
    },
  ];
}

function reviewPlugins(cluster: ClusterManifest, path: FieldPath): Finding[] {
  const enabled = cluster.spec.plugins
    .map((plugin, index) => ({ plugin, index }))
    .filter((p) => p.plugin.enabled);
  const archivers = enabled.filter(({ plugin }) => plugin.isWALArchiver);
  const findings: Finding[] = [];
  const [first, second] = archivers;
  // The Barman plugin's ObjectStore stands in barmanObjectStore of a manifest that is kept.
  if (first && !isBarmanPlugin(first.plugin) && cluster.spec.backup?.barmanObjectStore) {
    const message = `plugin ${show(first.plugin.name)} is the WAL archiver, and barmanObjectStore is too`;
    const fix = 'remove isWALArchiver or spec.backup.barmanObjectStore';
    findings.push({ path: [...path, first.index], message, fix, severity: 'error' });
  }
  if (first && second) {
    const message = `${show(first.plugin.name)} and ${show(second.plugin.name)} both say isWALArchiver`;
    findings.push({ path: [...path, second.index], message, fix: 'keep one archiver', severity: 'error' });
  }
  for (const { plugin, index } of enabled) {
    if (isBarmanPlugin(plugin)) continue;
    const message = `plugin ${show(plugin.name)} is accepted; walkeep runs no plugins`;
    const isMeant =
      plugin.parameters['barmanObjectName'] !== undefined || closestName(plugin.name, [BARMAN_PLUGIN]);
    findings.push(
      isMeant
        ? {
            path: [...path, index],
            message: `${message}: nothing is archived or backed up by it`,
            fix: `did you mean "${BARMAN_PLUGIN}"?`,
            severity: 'warning',
          }
        : { path: [...path, index], message, fix: '', severity: 'note' },
    );
  }
  return findings;
}

/** walkeep changes no settings by itself; these would keep archiving from working, or CNPG from accepting the manifest. */
function reviewParameters(given: Readonly<Record<string, string>>, path: FieldPath): Finding[] {
  const warn = (name: string, message: string, fix: string): Finding => ({
    path: [...path, name],
    message,
    fix,
    severity: 'warning',
  });
  const findings: Finding[] = [];
  const mode = given['archive_mode'];
  if (mode !== undefined && !['on', 'always', 'true'].includes(mode.toLowerCase())) {
    findings.push(warn('archive_mode', `${show(mode)}: nothing would be archived`, 'write "on"'));
  }
  if (given['wal_level'] === 'minimal') {
    findings.push(warn('wal_level', '"minimal" leaves nothing to archive', 'write "replica" or "logical"'));
  }
  for (const name of ['archive_command', 'archive_library', 'restore_command']) {
    if (given[name] === undefined || given[name] === '') continue;
    const message = 'walkeep sets no parameters, and CNPG refuses this one';
    findings.push(
      warn(name, message, 'remove it; walkeep archive-command prints the line for postgresql.conf'),
    );
  }
  return findings;
}
