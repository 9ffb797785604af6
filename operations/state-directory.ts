import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { BackupError } from '../core/errors.ts';
import { canonicalJson } from '../core/fingerprint.ts';
import type { Secret } from '../core/secret.ts';
import { backupPolicySchema, type BackupPolicyManifest } from '../manifests/backup-policy.ts';
import { backupSchema, type BackupManifest } from '../manifests/backup.ts';
import { clusterSchema, type ClusterManifest } from '../manifests/cluster.ts';
import { nameFault, secretKeyFault } from '../manifests/fields.ts';
import { objectId } from '../manifests/metadata.ts';
import { objectStoreSchema, type ObjectStoreManifest } from '../manifests/object-store-resource.ts';
import { scheduledBackupSchema, type ScheduledBackupManifest } from '../manifests/scheduled-backup.ts';
import {
  scheduledVerificationSchema,
  type ScheduledVerificationManifest,
} from '../manifests/scheduled-verification.ts';
import { listPrivateFolder, readPrivateFile, removePrivateFile, writePrivateFile } from './private-file.ts';

const SYSTEM_STATE = '/var/lib/walkeep';

/**
 * Where this host keeps applied manifests, secrets and sockets: `$WALKEEP_STATE`; else `/var/lib/walkeep` for root and
 * whoever may write there; else `$XDG_STATE_HOME/walkeep` or `~/.local/state/walkeep`.
 */
export async function findStateDirectory(environment: NodeJS.ProcessEnv): Promise<string> {
  const { WALKEEP_STATE: given, XDG_STATE_HOME: xdg, HOME: home } = environment;
  if (given !== undefined && given !== '') return resolve(given);
  if (process.getuid?.() === 0) return SYSTEM_STATE;
  const writable = await access(SYSTEM_STATE, constants.W_OK | constants.X_OK).then(
    () => true,
    () => false,
  );
  if (writable) return SYSTEM_STATE;
  // XDG: a relative path is to be ignored.
  if (xdg !== undefined && xdg.startsWith('/')) return join(xdg, 'walkeep');
  return join(home === undefined || home === '' ? homedir() : home, '.local/state/walkeep');
}

/** A manifest as it was applied. */
export interface Applied<Manifest> {
  readonly manifest: Manifest;
  /** From 1; grows when an applied manifest differs from the one before. */
  readonly revision: number;
  /** ISO 8601. */
  readonly appliedAt: string;
}

export interface SaveOptions {
  /** The keeper's revision, where it decides; otherwise the next one. */
  readonly revision?: number;
  readonly now?: Date;
}

export type Saved<Manifest> = Applied<Manifest> & {
  /** `unchanged` writes nothing. */
  readonly outcome: 'created' | 'changed' | 'unchanged';
};

interface AnyManifest {
  readonly metadata: { readonly namespace: string; readonly name: string };
}

/** An object found in the state directory; one whose file is damaged has a problem instead of a content. */
export interface Listed<Manifest> {
  readonly namespace: string;
  readonly name: string;
  readonly applied?: Applied<Manifest>;
  readonly problem?: string;
}

/** The BackupPolicy of one cluster. */
export interface ClusterPolicy {
  /** Of the cluster. */
  readonly metadata: { readonly namespace: string; readonly name: string };
  readonly policy: BackupPolicyManifest;
}

const clusterPolicySchema: z.ZodType<ClusterPolicy> = z.object({
  metadata: z.object({ namespace: z.string(), name: z.string() }),
  policy: backupPolicySchema,
});

/** The applied manifests of one kind. */
export interface ManifestShelf<Manifest extends AnyManifest> {
  /** Writes the manifest, unless the same one is there. */
  save(manifest: Manifest, options?: SaveOptions): Promise<Saved<Manifest>>;
  /** @throws BackupError `config-invalid` when the file is there and can't be used */
  read(namespace: string, name: string): Promise<Applied<Manifest> | undefined>;
  /** By namespace and name; a damaged file is an entry with a problem. */
  list(namespace?: string): Promise<Listed<Manifest>[]>;
  remove(namespace: string, name: string): Promise<void>;
}

/** A secret to keep on this host. */
export interface SecretValues {
  readonly namespace: string;
  readonly name: string;
  readonly values: ReadonlyMap<string, Secret>;
}

export interface SavedSecret {
  readonly outcome: 'created' | 'changed' | 'unchanged';
  /** Where the values are, one file a key. */
  readonly directory: string;
}

/** What walkeep keeps on a host. Nothing of it is needed to restore: that takes the repository and its keys alone. */
export interface StateDirectory {
  readonly root: string;
  readonly clusters: ManifestShelf<ClusterManifest>;
  readonly backups: ManifestShelf<BackupManifest>;
  readonly scheduledBackups: ManifestShelf<ScheduledBackupManifest>;
  readonly objectStores: ManifestShelf<ObjectStoreManifest>;
  /** Policies that wait on this host for their clusters to be applied. */
  readonly backupPolicies: ManifestShelf<BackupPolicyManifest>;
  /** By the name of the CLUSTER: its policy as its keeper declares it. Several workers may share the directory. */
  readonly clusterPolicies: ManifestShelf<ClusterPolicy>;
  readonly scheduledVerifications: ManifestShelf<ScheduledVerificationManifest>;
  /** Sockets and the like; it is not made here. */
  readonly runDirectory: string;
  /** Keeps a secret, replacing all of an earlier one of that name. It never leaves this host. */
  createSecret(secret: SecretValues): Promise<SavedSecret>;
}

/** The state directory at `root`. Nothing is read or written yet. */
export function openStateDirectory(root: string): StateDirectory {
  return {
    root,
    clusters: createShelf(root, 'clusters', clusterSchema),
    backups: createShelf(root, 'backups', backupSchema, refuseOtherBackup),
    scheduledBackups: createShelf(root, 'scheduled-backups', scheduledBackupSchema),
    objectStores: createShelf(root, 'object-stores', objectStoreSchema),
    backupPolicies: createShelf(root, 'backup-policies', backupPolicySchema),
    clusterPolicies: createShelf(root, 'cluster-policies', clusterPolicySchema),
    scheduledVerifications: createShelf(root, 'scheduled-verifications', scheduledVerificationSchema),
    runDirectory: join(root, 'run'),
    createSecret: (secret) => createSecret(root, secret),
  };
}

/**
 * The applied Cluster.
 *
 * @param hint what to do without it, where that is more than applying it
 * @throws BackupError `cluster-unknown` naming those there are
 */
export async function requireCluster(
  state: StateDirectory,
  namespace: string,
  name: string,
  hint?: string,
): Promise<Applied<ClusterManifest>> {
  const applied = await state.clusters.read(namespace, name);
  if (applied) return applied;
  const known = (await state.clusters.list()).map(objectId);
  const told = known.length === 0 ? 'none is' : `there are: ${known.join(', ')}`;
  throw new BackupError(
    'cluster-unknown',
    `no Cluster ${namespace}/${name} is applied on this host (${told})`,
    { ...(hint !== undefined && { hint }) },
  );
}

/** A Backup is taken once: applying another one under its name would look done without being it. */
function refuseOtherBackup(before: BackupManifest, after: BackupManifest): void {
  if (canonicalJson(before.spec) === canonicalJson(after.spec)) return;
  throw new BackupError('manifest-invalid', `Backup ${objectId(after.metadata)} exists with another spec`, {
    hint: 'a Backup never changes: apply it under a new name',
  });
}

function createShelf<Manifest extends AnyManifest>(
  root: string,
  folder: string,
  schema: z.ZodType<Manifest>,
  refuseChange: (before: Manifest, after: Manifest) => void = () => undefined,
): ManifestShelf<Manifest> {
  const envelope = z.object({
    version: z.literal(1),
    revision: z.int().min(1),
    appliedAt: z.iso.datetime(),
    manifest: schema,
  });
  const place = (namespace: string, name: string) => [folder, namespaceIn(namespace), `${nameIn(name)}.json`];

  const read = async (namespace: string, name: string): Promise<Applied<Manifest> | undefined> => {
    const names = place(namespace, name);
    const bytes = await readPrivateFile(root, names);
    if (bytes === undefined) return undefined;
    const path = join(root, ...names);
    const parsed = envelope.safeParse(parseJson(bytes, path));
    const found = parsed.data?.manifest.metadata;
    if (parsed.success && found?.name === name && found.namespace === namespace) {
      const { manifest, revision, appliedAt } = parsed.data;
      return { manifest, revision, appliedAt };
    }
    const field = parsed.error?.issues[0]?.path.join('.') ?? 'manifest.metadata';
    throw damaged(path, `${field} is not what this version writes`);
  };

  const save = async (manifest: Manifest, options: SaveOptions = {}): Promise<Saved<Manifest>> => {
    const { namespace, name } = manifest.metadata;
    const before = await read(namespace, name);
    const same = before !== undefined && canonicalJson(before.manifest) === canonicalJson(manifest);
    if (same && (options.revision === undefined || options.revision === before.revision)) {
      return { ...before, outcome: 'unchanged' };
    }
    if (before) refuseChange(before.manifest, manifest);
    const revision = options.revision ?? (before?.revision ?? 0) + 1;
    const appliedAt = (options.now ?? new Date()).toISOString();
    const text = `${JSON.stringify({ version: 1, revision, appliedAt, manifest }, undefined, 2)}\n`;
    await writePrivateFile(root, place(namespace, name), Buffer.from(text));
    return { manifest, revision, appliedAt, outcome: before ? 'changed' : 'created' };
  };

  const list = async (only?: string): Promise<Listed<Manifest>[]> => {
    const namespaces = only === undefined ? await listPrivateFolder(root, [folder]) : [namespaceIn(only)];
    const found: Listed<Manifest>[] = [];
    for (const namespace of namespaces) {
      for (const file of await listPrivateFolder(root, [folder, namespace])) {
        if (!file.endsWith('.json')) continue;
        const name = file.slice(0, -'.json'.length);
        found.push({ namespace, name, ...(await readOrProblem(namespace, name)) });
      }
    }
    return found;
  };

  const readOrProblem = async (namespace: string, name: string) => {
    try {
      const applied = await read(namespace, name);
      return applied ? { applied } : { problem: 'it went away while it was read' };
    } catch (error) {
      if (error instanceof BackupError) return { problem: error.message };
      throw error;
    }
  };

  return { save, read, list, remove: (namespace, name) => removePrivateFile(root, place(namespace, name)) };
}

function parseJson(bytes: Buffer, path: string): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    throw damaged(path, 'it is no JSON');
  }
}

function damaged(path: string, why: string): BackupError {
  return new BackupError('config-invalid', `${path} is damaged: ${why}`, {
    hint: 'remove it and apply the manifest again',
  });
}

function nameIn(name: string): string {
  const fault = nameFault(name);
  if (fault) throw new BackupError('format-invalid', fault.message, { hint: fault.fix });
  return name;
}

function namespaceIn(namespace: string): string {
  const fault = nameFault(namespace, 63);
  if (fault) throw new BackupError('format-invalid', fault.message, { hint: fault.fix });
  return namespace;
}

async function createSecret(root: string, { namespace, name, values }: SecretValues): Promise<SavedSecret> {
  const folder = ['secrets', namespaceIn(namespace), nameIn(name)];
  for (const key of values.keys()) {
    const fault = secretKeyFault(key);
    if (fault) throw new BackupError('format-invalid', fault.message, { hint: fault.fix });
  }
  const before = await listPrivateFolder(root, folder);
  const obsolete = before.filter((key) => !values.has(key));
  let written = 0;
  // New values first: a reader in between finds every key it knows.
  for (const [key, secret] of values) {
    const bytes = secret.revealBytes();
    const there = await readPrivateFile(root, [...folder, key]);
    if (there !== undefined && there.equals(bytes)) continue;
    await writePrivateFile(root, [...folder, key], bytes);
    written += 1;
  }
  for (const key of obsolete) await removePrivateFile(root, [...folder, key]);
  const changed = written + obsolete.length > 0;
  const outcome = before.length === 0 ? 'created' : changed ? 'changed' : 'unchanged';
  return { outcome, directory: join(root, ...folder) };
}
