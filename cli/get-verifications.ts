import { Command } from 'commander';
import { stringify } from 'yaml';
import { isBackupError, messageOf } from '../core/errors.ts';
import type { Verification } from '../core/verification.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { openClusterRepository } from '../operations/open-repository.ts';
import { listVerifications } from '../repository/verifications.ts';
import { exitCodeFor } from './exit-codes.ts';
import { findCluster, listClusters, withHost, type Host } from './host.ts';
import { namespaceOption, outputOption, parseClusterArgument, stateOption } from './options.ts';
import { formatAge, formatTable, note } from './output.ts';

interface GetVerificationsOptions {
  readonly namespace: string;
  readonly output?: 'json' | 'yaml' | 'wide' | 'name';
  readonly limit: string;
  readonly state?: string;
}

const READ_MS = 60_000;

/** `walkeep get verifications` */
export function getVerifications(): Command {
  return new Command('verifications')
    .alias('verification')
    .summary('what was proved by restoring it')
    .description('Lists the evidence that the repositories keep, newest first.')
    .argument('[cluster]', 'NAME or NAMESPACE/NAME: only of this one')
    .addOption(namespaceOption())
    .option('--limit <number>', 'only the newest so many of each cluster', '20')
    .addOption(outputOption(['json', 'yaml', 'wide', 'name']))
    .addOption(stateOption())
    .addHelpText(
      'after',
      '\nExamples:\n  walkeep get verifications\n  walkeep get verifications production-postgres -o wide\n' +
        "  walkeep get verifications -o json | jq '.items[0].checks'\n",
    )
    .action(async (argument: string | undefined, options: GetVerificationsOptions) => {
      const named = argument === undefined ? undefined : parseClusterArgument(argument);
      const namespace = named?.namespace ?? options.namespace;
      await withHost(options, async (host) => {
        const found = await readAll(host, namespace, named?.cluster, Number(options.limit) || 20);
        if (found.length === 0 && (options.output === undefined || options.output === 'wide')) {
          if (process.exitCode === undefined) note(`No verifications found in namespace ${namespace}.`);
          return;
        }
        process.stdout.write(formatVerifications(found, options.output));
      });
    });
}

/** A repository that can't be read is told, and is no empty one: the exit code says so. */
async function readAll(
  host: Host,
  namespace: string,
  cluster: string | undefined,
  limit: number,
): Promise<Verification[]> {
  const manifests =
    cluster === undefined
      ? await listClusters(host, namespace)
      : [(await findCluster(host, namespace, cluster)).manifest];
  const read = await Promise.allSettled(manifests.map((manifest) => readOf(host, manifest, limit)));
  for (const [index, one] of read.entries()) {
    if (one.status === 'fulfilled') continue;
    const error: unknown = one.reason;
    const why = isBackupError(error) ? `${error.message}; ${error.hint}` : messageOf(error);
    note(`walkeep: not asked: the repository of ${manifests[index]?.metadata.name ?? ''}: ${why}`);
    process.exitCode = exitCodeFor(error);
  }
  return read
    .flatMap((one) => (one.status === 'fulfilled' ? one.value : []))
    .toSorted((a, b) => Date.parse(b.startedAt) - Date.parse(a.startedAt));
}

async function readOf(host: Host, manifest: ClusterManifest, limit: number): Promise<Verification[]> {
  if (!manifest.spec.backup?.barmanObjectStore) return [];
  const repository = await openClusterRepository(manifest, host.resolver);
  try {
    return await listVerifications(repository, AbortSignal.timeout(READ_MS), {
      limit,
      onProblem: (id, error) => note(`walkeep: verification ${id} can't be read: ${messageOf(error)}`),
    });
  } finally {
    await repository.close();
  }
}

const HEADERS = ['ID', 'AGE', 'CLUSTER', 'BACKUP', 'TARGET', 'RESULT', 'RTO', 'RPO'] as const;
const WIDE = ['REACHED', 'TIMELINE', 'FETCH', 'REPLAY', 'START', 'INSTANCE', 'RULES'] as const;

function formatVerifications(
  found: readonly Verification[],
  output: GetVerificationsOptions['output'],
): string {
  const now = new Date();
  const list = { apiVersion: 'v1', kind: 'List', items: found };
  switch (output) {
    case 'json':
      return `${JSON.stringify(list, undefined, 2)}\n`;
    case 'yaml':
      return stringify(list);
    case 'name':
      return found.map(({ id }) => `verification/${id}\n`).join('');
    case 'wide':
      return formatTable(
        [...HEADERS, ...WIDE, 'ERROR'],
        found.map((one) => [...cells(one, now), ...wideCells(one), errorOf(one)]),
      );
    case undefined:
      return formatTable(
        [...HEADERS, 'ERROR'],
        found.map((one) => [...cells(one, now), errorOf(one)]),
      );
  }
}

function cells(found: Verification, now: Date): string[] {
  return [
    found.id,
    formatAge(new Date(found.startedAt), now),
    found.cluster,
    found.backupId ?? '',
    [found.target.kind, found.target.value].filter(Boolean).join(' '),
    found.result,
    inSeconds(found.rtoSeconds),
    inSeconds(found.rpoSeconds),
  ];
}

function wideCells(found: Verification): string[] {
  return [
    found.reachedLsn ?? '',
    String(found.timeline ?? ''),
    inSeconds(found.fetchSeconds),
    inSeconds(found.replaySeconds),
    inSeconds(found.startSeconds),
    found.instance,
    found.name ?? '',
  ];
}

function inSeconds(seconds: number | undefined): string {
  return seconds === undefined ? '' : `${seconds}s`;
}

function errorOf({ error = '' }: Verification): string {
  return error.replaceAll(/\s+/g, ' ');
}
