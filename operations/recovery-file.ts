import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { BackupError, messageOf } from '../core/errors.ts';
import { barmanObjectStoreSchema } from '../manifests/object-store.ts';
import type { Repository } from '../repository/repository.ts';
import type { FetchPlan } from './fetch-wal.ts';
import { openRepository, resolveExternalAccess, type RepositoryAccess } from './open-repository.ts';
import type { SecretResolver } from './secret-resolver.ts';

/**
 * What a restore leaves in the data directory for `wal-fetch`, so that a recovery needs the repository and its
 * credentials only: no manifest, no worker, no Temporal. It refers to secrets and never holds one (S1).
 */
export const RECOVERY_FILE = 'walkeep_recovery.json';

const position = z.string().regex(/^[0-9A-F]{1,8}\/[0-9A-F]{1,8}$/);
const walName = z.string().regex(/^[0-9A-F]{24}(\.partial)?$/);

const planSchema: z.ZodType<FetchPlan> = z.object({
  segmentSize: z.number().int().positive(),
  systemId: z
    .string()
    .regex(/^\d{1,20}$/)
    .optional(),
  timelinePath: z
    .array(
      z.object({
        timeline: z.number().int().positive(),
        beginsAt: position,
        endsAt: position.exactOptional(),
      }),
    )
    .min(1),
  acceptedEnd: walName.optional(),
  tail: z
    .object({ segment: walName, file: walName, cutAtOffset: z.number().int().nonnegative().exactOptional() })
    .optional(),
});

/** Where the repository is, in the words of a manifest, with references to secrets instead of their values. */
export interface RepositoryReference {
  /** The namespace in which the references are resolved. */
  readonly namespace: string;
  /** The folder below `destinationPath`. */
  readonly serverName: string;
  /** `barmanObjectStore` as in a manifest; without credentials in it, those of the environment are used. */
  readonly barmanObjectStore: Readonly<Record<string, unknown>>;
}

const referenceSchema: z.ZodType<RepositoryReference> = z.object({
  namespace: z.string(),
  serverName: z.string().min(1),
  barmanObjectStore: z.record(z.string(), z.unknown()),
});

const recoverySchema = z.object({
  version: z.literal(1),
  createdAt: z.string(),
  backupId: z.string(),
  repository: referenceSchema,
  /** Absent for a standby, which follows the archive wherever it goes. */
  plan: planSchema.optional(),
  /** A directory of this recovery's own, for segments fetched ahead; relative to the data directory. */
  spool: z.string().regex(/^[a-z_]+(\.[a-z]+)?$/),
});

export type RecoveryFile = z.infer<typeof recoverySchema>;

/**
 * The recovery a data directory is in.
 *
 * @param place the data directory, or the file in it
 * @returns `undefined` when no restore of walkeep made this directory
 * @throws BackupError `config-invalid` when the file can't be read: whoever asked must not go on as if it were absent
 */
export async function readRecoveryFile(place: string): Promise<RecoveryFile | undefined> {
  const path = basename(place) === RECOVERY_FILE ? place : join(place, RECOVERY_FILE);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw new BackupError('config-invalid', `can't read ${path}: ${messageOf(error)}`, { cause: error });
  }
  try {
    return recoverySchema.parse(JSON.parse(text));
  } catch (error) {
    throw new BackupError(
      'config-invalid',
      `${path} is not what a restore wrote: ${messageOf(error).slice(0, 200)}`,
      {
        cause: error,
        hint: 'restore again, or write restore_command by hand: walkeep restore-command',
      },
    );
  }
}

export function formatRecoveryFile(file: RecoveryFile): string {
  return `${JSON.stringify(file, null, 2)}\n`;
}

/** What in `barmanObjectStore` says where a repository is and how it is opened; the rest is about writing. */
const LOCATION = [
  'destinationPath',
  'endpointURL',
  'endpointCA',
  's3Credentials',
  'azureCredentials',
  'googleCredentials',
] as const;

/** A reference to a repository as a manifest describes it. */
export function referenceTo(
  barmanObjectStore: Readonly<Record<string, unknown>> & { readonly serverName?: string | undefined },
  fallbackServerName: string,
  namespace: string,
): RepositoryReference {
  const location = LOCATION.flatMap((key) =>
    barmanObjectStore[key] === undefined ? [] : [[key, barmanObjectStore[key]]],
  );
  return {
    namespace,
    serverName: barmanObjectStore.serverName ?? fallbackServerName,
    barmanObjectStore: Object.fromEntries(location),
  };
}

/**
 * How to reach what a reference names, with its secrets.
 *
 * @throws BackupError `config-invalid` | `secret-missing` | `not-yet`
 */
export async function resolveReference(
  reference: RepositoryReference,
  resolver: SecretResolver,
): Promise<RepositoryAccess> {
  const store = barmanObjectStoreSchema.safeParse(reference.barmanObjectStore);
  if (!store.success) {
    throw new BackupError(
      'config-invalid',
      `the reference to the repository can't be used: ${store.error.issues[0]?.message ?? 'it is damaged'}`,
    );
  }
  return resolveExternalAccess(
    { name: reference.serverName, barmanObjectStore: store.data },
    reference.namespace,
    resolver,
  );
}

/** Opens the repository of a recovery. @throws BackupError as `resolveReference` */
export async function openReference(
  reference: RepositoryReference,
  resolver: SecretResolver,
): Promise<Repository> {
  return openRepository(await resolveReference(reference, resolver));
}
