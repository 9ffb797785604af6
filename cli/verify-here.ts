import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { BackupError } from '../core/errors.ts';
import type { RecoveryTarget } from '../core/recovery.ts';
import type { Verification } from '../core/verification.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { policyOf } from '../manifests/desire.ts';
import { readHeld } from '../operations/declared.ts';
import { openClusterRepository } from '../operations/open-repository.ts';
import type { VerifyRequest } from '../operations/verify-backup.ts';
import { defaultVerificationRules, verifyCluster } from '../operations/verify-cluster.ts';
import { connect, connectionFromEnvironment, disconnect } from '../postgres/connection.ts';
import { writeVerification } from '../repository/verifications.ts';
import type { RestoreVerificationInput } from '../workflows/interface.ts';
import { findCluster, type Host } from './host.ts';
import { createProgressBar } from './progress.ts';
import { walkeepVersion } from '../repository/walkeep-version.ts';

/** What `walkeep verify` was told. */
export interface VerifyFlags {
  readonly namespace: string;
  readonly backup?: string;
  readonly rules?: string;
  readonly target?: 'end' | 'random';
  readonly targetTime?: string;
  readonly targetLsn?: string;
  readonly targetXid?: string;
  readonly targetName?: string;
  readonly targetImmediate?: true;
  readonly targetTimeline?: string;
  readonly exclusive?: true;
  readonly amcheck?: 'sample' | 'full';
  readonly query: readonly VerifyRequest['checks']['queries'][number][];
  readonly scratch?: string;
  readonly minFree?: string;
  readonly deadline?: string;
  readonly queue?: string;
  readonly here?: true;
  readonly postgresBin?: string;
  readonly state?: string;
  readonly output?: 'json';
}

const ASK_SERVER_MS = 3_000;

/** Verifies on this host, without Temporal, and writes the evidence down. */
export async function verifyHere(host: Host, flags: VerifyFlags, cluster: string): Promise<Verification> {
  const { manifest } = await findCluster(host, flags.namespace, cluster);
  const rules = await rulesOf(host, flags, cluster);
  const { limits } = policyOf({
    cluster: manifest,
    ...(await readHeld(host.state, flags.namespace, cluster)),
  });
  const seed = randomUUID();
  const time = new Date().toISOString().replaceAll(/[-:]/g, '').slice(0, 15);
  const request: VerifyRequest = {
    id: `${time}-${seed.slice(-6)}`,
    seed,
    namespace: flags.namespace,
    cluster,
    ...(flags.rules !== undefined && { name: flags.rules }),
    backup: flags.backup ?? rules.backup,
    target: targetOf(flags) ?? rules.target,
    checks: { ...rules.checks, ...checksOf(flags) },
    readBudget: flags.rules === undefined ? null : rules.readBudget,
    scratch: {
      directory: flags.scratch ?? rules.scratch.directory,
      minFree: flags.minFree ?? rules.scratch.minFree,
    },
    deadline: flags.deadline ?? rules.deadline,
    nice: limits.nice,
    ...(limits.jobs !== null && { jobs: limits.jobs }),
  };
  const interrupted = new AbortController();
  const stop = () =>
    interrupted.abort(new BackupError('restore-interrupted', 'the verification was interrupted'));
  process.once('SIGINT', stop).once('SIGTERM', stop);
  const bar = createProgressBar();
  try {
    const { verification } = await verifyCluster(
      {
        resolver: host.resolver,
        stateDirectory: host.state.root,
        secretsDirectory: process.env['WALKEEP_SECRETS_DIR'],
        pgdata: await productionDirectory(),
        binDirectory: flags.postgresBin ?? process.env['WALKEEP_POSTGRES_BIN'],
        instance: hostname(),
        walkeepVersion: walkeepVersion(),
      },
      manifest,
      request,
      { signal: interrupted.signal, onProgress: (progress) => bar.update(progress) },
    );
    bar.end();
    return await recorded(host, manifest, verification);
  } finally {
    bar.end();
    process.removeListener('SIGINT', stop).removeListener('SIGTERM', stop);
  }
}

/** Of the server that libpq's environment names on this host: its disk is not to be filled. */
async function productionDirectory(): Promise<string | undefined> {
  const given = process.env['PGDATA'];
  if (given !== undefined && given !== '') return given;
  try {
    const settings = connectionFromEnvironment(process.env);
    if (!settings.host.startsWith('/')) return undefined;
    const signal = AbortSignal.timeout(ASK_SERVER_MS);
    const client = await connect(settings, { applicationName: 'walkeep', signal });
    try {
      const { rows } = await client.query<{ directory: string }>(
        "select setting as directory from pg_settings where name = 'data_directory'",
      );
      return rows[0]?.directory;
    } finally {
      await disconnect(client);
    }
  } catch {
    // None runs here, or it does not tell.
    return undefined;
  }
}

async function rulesOf(host: Host, flags: VerifyFlags, cluster: string) {
  if (flags.rules === undefined) return defaultVerificationRules(cluster);
  const applied = await host.state.scheduledVerifications.read(flags.namespace, flags.rules);
  if (applied?.manifest.spec.cluster.name === cluster) return applied.manifest.spec;
  throw new BackupError(
    'usage',
    `there is no ScheduledVerification ${flags.namespace}/${flags.rules} of ${cluster} on this host`,
    { hint: 'apply it, or leave --rules out' },
  );
}

/** Evidence that can't be stored is still shown. */
async function recorded(
  host: Host,
  manifest: ClusterManifest,
  verification: Verification,
): Promise<Verification> {
  try {
    const repository = await openClusterRepository(manifest, host.resolver);
    try {
      await writeVerification(repository, verification, AbortSignal.timeout(60_000));
    } finally {
      await repository.close();
    }
    return verification;
  } catch (error) {
    if (!(error instanceof BackupError)) throw error;
    const warning = `the evidence could not be written into the repository: ${error.message}`;
    return { ...verification, warnings: [...verification.warnings, warning] };
  }
}

/** The target that the command line names. @throws BackupError `usage` for two */
export function targetOf(flags: VerifyFlags): RestoreVerificationInput['target'] {
  const explicit = Object.fromEntries(
    Object.entries({
      targetTime: flags.targetTime,
      targetLSN: flags.targetLsn,
      targetXID: flags.targetXid,
      targetName: flags.targetName,
      targetImmediate: flags.targetImmediate,
      targetTLI: flags.targetTimeline,
      exclusive: flags.exclusive,
    }).filter(([, value]) => value !== undefined),
  ) as RecoveryTarget;
  if (Object.keys(explicit).length === 0) return flags.target;
  if (flags.target === undefined) return explicit;
  throw new BackupError(
    'usage',
    `--target ${flags.target} and another target are given; a recovery ends at one of them`,
  );
}

/** The checks that the command line asks for; the others are as the rules say. */
export function checksOf({ amcheck, query }: VerifyFlags): Partial<VerifyRequest['checks']> | undefined {
  if (amcheck === undefined && query.length === 0) return undefined;
  return { ...(amcheck !== undefined && { amcheck }), ...(query.length > 0 && { queries: [...query] }) };
}
