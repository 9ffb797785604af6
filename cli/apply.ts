import {
  WithStartWorkflowOperation,
  WorkflowExecutionAlreadyStartedError,
  WorkflowUpdateFailedError,
} from '@temporalio/client';
import { ApplicationFailure } from '@temporalio/common';
import { Command } from 'commander';
import { hostname } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { BackupError, ERRORS, isBackupError, type ErrorCode } from '../core/errors.ts';
import type { BackupManifest } from '../manifests/backup.ts';
import { methodOf } from '../manifests/barman-plugin.ts';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { formatProblem, hasErrors, loadManifests, type LoadedDocument } from '../manifests/load.ts';
import { objectId } from '../manifests/metadata.ts';
import { forgetWaiting, readWaiting } from '../operations/declared.ts';
import { readManifestSources } from '../operations/read-manifests.ts';
import {
  applyUpdate,
  backupWorkflowId,
  clusterStatusQuery,
  clusterWorkflowId,
  previewQuery,
  WORKFLOW,
  WORKFLOW_QUEUE,
  type ApplyInput,
  type ApplyResult,
  type BaseBackupInput,
} from '../workflows/interface.ts';
import { holdOf } from '../workflows/keeper-holds.ts';
import { refuseDropping, takenOver } from './apply-besides.ts';
import { tellMissingSecrets } from './apply-secrets.ts';
import { requireShorterWindows, tellShorterWindows } from './apply-windows.ts';
import { EXIT } from './exit-codes.ts';
import { withHost, type Host } from './host.ts';
import { knownObjectStores, saveWouldSay, temporalIfThere, withReferringClusters } from './object-stores.ts';
import { stateOption } from './options.ts';
import { note } from './output.ts';
import type { TemporalClient } from './temporal-client.ts';

interface ApplyOptions {
  readonly filename: readonly string[];
  readonly dryRun?: true;
  readonly yes?: true;
  readonly mergeDuplicateKeys?: true;
  readonly namespace?: string;
  readonly state?: string;
}

/** `walkeep apply` */
export function applyCommand(): Command {
  return new Command('apply')
    .summary('make the manifests in files, directories or standard input true')
    .description(
      "Takes CloudNativePG's Cluster, Backup, ScheduledBackup and (of its Barman plugin) ObjectStore, Kubernetes Secrets, and\n" +
        "walkeep's BackupPolicy and ScheduledVerification.\n" +
        'Everything is read and checked first: one refused document, and nothing is applied.\n' +
        'Applying the same again changes nothing. What is not in the files is left alone: see walkeep delete.',
    )
    .requiredOption('-f, --filename <path...>', 'files, directories, or - for standard input')
    .option('--dry-run', 'check, and say what would change; change nothing')
    .option('--merge-duplicate-keys', 'unite maps that stand twice under one key, instead of refusing them')
    .option('--yes', 'do not ask before a retentionPolicy keeps less than the one before')
    .option('-n, --namespace <namespace>', 'namespace of objects that name none (default: "default")')
    .addOption(stateOption())
    .addHelpText(
      'after',
      '\nExamples:\n  walkeep apply -f production.yaml\n  walkeep apply -f manifests/ --dry-run\n' +
        '  kubectl get cluster,scheduledbackup -o yaml | walkeep apply -f -\n\n' +
        'Secrets are kept on this host (0600, in the state directory) for the worker that runs here, and go nowhere else.\n',
    )
    .action(async (options: ApplyOptions) => {
      process.exitCode = await withHost(options, (host) => apply(host, options));
    });
}

async function apply(host: Host, options: ApplyOptions): Promise<number> {
  const sources = await readManifestSources(options.filename, readStandardInput);
  const applied = await host.state.clusters.list();
  const loaded = loadManifests(sources, {
    now: new Date(),
    appliedClusters: applied.map(objectId),
    objectStores: await knownObjectStores(host.state),
    ...(options.namespace !== undefined && { namespace: options.namespace }),
    ...(options.mergeDuplicateKeys && { mergeDuplicateKeys: true }),
  });
  for (const problem of loaded.problems) note(formatProblem(problem));
  if (hasErrors(loaded.problems)) {
    const errors = loaded.problems.filter(({ severity }) => severity === 'error').length;
    note(
      `walkeep: ${errors} ${errors === 1 ? 'error' : 'errors'}: ${loaded.count === 1 ? 'the document was not' : `none of ${loaded.count} documents was`} applied, nothing was changed`,
    );
    return EXIT.manifestRefused;
  }
  await tellMissingSecrets(host, loaded.documents);
  const ask = options.dryRun ? temporalIfThere : requireTemporal;
  const plan = await withReferringClusters(host, planOf(loaded.documents), ask);
  await (options.dryRun ? preview(host, plan) : carryOut(host, plan, options.yes ?? false));
  for (const { kind, name } of loaded.foreign) say(kind.toLowerCase(), name, 'left alone');
  return EXIT.ok;
}

async function readStandardInput(): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(Buffer.from(chunk as Uint8Array));
  return Buffer.concat(chunks);
}

type Of<Kind extends LoadedDocument['kind']> = Extract<LoadedDocument, { kind: Kind }>['manifest'];

/** What is to be done, by whom: secrets stay here, each keeper gets its cluster and that cluster's Backups. */
interface ApplyPlan {
  readonly secrets: readonly Of<'Secret'>[];
  readonly keepers: readonly {
    readonly namespace: string;
    readonly cluster: string;
    readonly input: ApplyInput;
  }[];
  /** ObjectStores are kept on this host, for Clusters that refer to them later. */
  readonly kept: readonly LoadedDocument[];
}

interface KeeperPlan {
  readonly namespace: string;
  readonly cluster: string;
  manifest?: ClusterManifest;
  policy?: Of<'BackupPolicy'>;
  readonly backups: BackupManifest[];
  readonly scheduledBackups: Of<'ScheduledBackup'>[];
  readonly verifications: Of<'ScheduledVerification'>[];
}

function planOf(documents: readonly LoadedDocument[]): ApplyPlan {
  const keepers = new Map<string, KeeperPlan>();
  const keeperOf = (namespace: string, cluster: string): KeeperPlan => {
    const id = `${namespace}/${cluster}`;
    const found = keepers.get(id) ?? {
      namespace,
      cluster,
      backups: [],
      scheduledBackups: [],
      verifications: [],
    };
    keepers.set(id, found);
    return found;
  };
  const secrets: Of<'Secret'>[] = [];
  const kept: LoadedDocument[] = [];
  for (const document of documents) {
    const { namespace } = document.manifest.metadata;
    switch (document.kind) {
      case 'Secret':
        secrets.push(document.manifest);
        break;
      case 'Cluster':
        keeperOf(namespace, document.manifest.metadata.name).manifest = document.manifest;
        break;
      case 'Backup':
        keeperOf(namespace, document.manifest.spec.cluster.name).backups.push(document.manifest);
        break;
      case 'ScheduledBackup':
        keeperOf(namespace, document.manifest.spec.cluster.name).scheduledBackups.push(document.manifest);
        break;
      case 'ScheduledVerification':
        keeperOf(namespace, document.manifest.spec.cluster.name).verifications.push(document.manifest);
        break;
      case 'BackupPolicy':
        for (const cluster of document.manifest.spec.clusters)
          keeperOf(namespace, cluster).policy = document.manifest;
        break;
      case 'ObjectStore':
        kept.push(document);
        break;
    }
  }
  return {
    secrets,
    kept,
    keepers: [...keepers.values()].map(({ namespace, cluster, manifest, policy, ...lists }) => ({
      namespace,
      cluster,
      input: {
        ...(manifest && { cluster: manifest }),
        ...(policy && { policy }),
        ...Object.fromEntries(Object.entries(lists).filter(([, list]) => list.length > 0)),
      },
    })),
  };
}

function say(kind: string, name: string, what: string): void {
  process.stdout.write(`${kind}/${name} ${what}\n`);
}

/** As kubectl names them. */
export const RESOURCE = {
  Cluster: 'cluster.postgresql.cnpg.io',
  Backup: 'backup.postgresql.cnpg.io',
  ScheduledBackup: 'scheduledbackup.postgresql.cnpg.io',
  BackupPolicy: 'backuppolicy.walkeep.io',
  ScheduledVerification: 'scheduledverification.walkeep.io',
  ObjectStore: 'objectstore.barmancloud.cnpg.io',
} as const;

/** A policy of several clusters is said once. */
function sayResult(result: ApplyResult, said: Set<string>, suffix = ''): void {
  for (const { kind, name, outcome } of result.objects) {
    const line = `${RESOURCE[kind]}/${name}`;
    if (kind === 'BackupPolicy' && said.has(line)) continue;
    said.add(line);
    say(RESOURCE[kind], name, `${outcome}${suffix}`);
  }
}

async function requireTemporal(host: Host): Promise<TemporalClient> {
  try {
    return await host.temporal();
  } catch (error) {
    if (!isBackupError(error, 'temporal-unavailable')) throw error;
    throw new BackupError(error.code, `${error.message}, so nothing was applied`, {
      cause: error,
      hint: error.hint,
    });
  }
}

/** The secrets first: a worker that hears of the manifest needs them at once. */
async function carryOut(host: Host, plan: ApplyPlan, yes: boolean): Promise<void> {
  // Before anything changes: without Temporal nothing of the manifests could be acted on.
  const temporal = plan.keepers.length > 0 ? await requireTemporal(host) : undefined;
  const running = new Set<string>();
  // What one of the keepers would refuse refuses all. One that does not answer is heard when its turn comes.
  for (const { namespace, cluster, input } of temporal ? plan.keepers : []) {
    try {
      const answered = await askKeeper(temporal as TemporalClient, namespace, cluster, input);
      if (answered) running.add(`${namespace}/${cluster}`);
    } catch (error) {
      if (isBackupError(error, 'manifest-invalid')) throw error;
      running.add(`${namespace}/${cluster}`);
    }
  }
  for (const one of plan.keepers)
    if (!running.has(`${one.namespace}/${one.cluster}`)) refuseUnheldBackups(one, one.input);
  if (temporal) await refuseDropping(host, temporal, plan.keepers);
  await requireShorterWindows(host, plan.keepers, yes);
  for (const { metadata, values } of plan.secrets) {
    const { outcome, directory } = await host.state.createSecret({ ...metadata, values });
    say(
      'secret',
      metadata.name,
      `${outcome === 'changed' ? 'configured' : outcome} (kept on this host: ${directory})`,
    );
  }
  for (const { kind, manifest } of plan.kept) {
    if (kind !== 'ObjectStore') continue;
    const { outcome } = await host.state.objectStores.save(manifest);
    const word = outcome === 'changed' ? 'configured' : outcome;
    say(RESOURCE.ObjectStore, manifest.metadata.name, `${word} (kept on this host)`);
  }
  if (!temporal) return;
  const said = new Set<string>();
  for (const { namespace, cluster, input } of plan.keepers) {
    const isNew = input.cluster !== undefined && !running.has(`${namespace}/${cluster}`);
    const whole = isNew ? await withWhatIsKept(host, namespace, cluster, input) : input;
    const result = await applyToKeeper(temporal, namespace, cluster, whole);
    if (result) {
      sayResult(result, said);
      if (changesManifest(input)) await waitUntilHeld(temporal, namespace, cluster, result.revision);
      if (isNew) {
        await forgetWaiting(host.state, namespace, cluster);
        for (const { kind, name } of await takenOver(temporal, namespace, cluster, result))
          say(RESOURCE[kind], name, `taken over: a worker of ${cluster} held it`);
      }
    } else {
      // Its keeper has ended meanwhile.
      refuseUnheldBackups({ namespace, cluster }, input);
      await keepForLater(host, cluster, input);
      await startBackups(temporal, namespace, cluster, input.backups ?? []);
    }
  }
}

function changesManifest({ cluster, policy, scheduledBackups, verifications }: ApplyInput): boolean {
  return [cluster, policy, scheduledBackups, verifications].some((part) => part !== undefined);
}

/**
 * A new keeper also gets what was applied on this host before the Cluster was. What workers hold, when Temporal has lost
 * its state, it asks them for itself.
 */
async function withWhatIsKept(
  host: Host,
  namespace: string,
  cluster: string,
  input: ApplyInput,
): Promise<ApplyInput> {
  const kept = await readWaiting(host.state, namespace, cluster);
  const scheduledBackups = unlessGiven(kept.schedules, input.scheduledBackups);
  const verifications = unlessGiven(kept.verifications, input.verifications);
  const policy = input.policy ?? kept.policy;
  return {
    ...input,
    ...(policy && { policy }),
    ...(scheduledBackups.length > 0 && { scheduledBackups }),
    ...(verifications.length > 0 && { verifications }),
  };
}

function unlessGiven<Manifest extends { readonly metadata: { readonly name: string } }>(
  kept: readonly Manifest[],
  given: readonly Manifest[] = [],
): Manifest[] {
  const names = new Set(given.map(({ metadata }) => metadata.name));
  return [...given, ...kept.filter(({ metadata }) => !names.has(metadata.name))];
}

/** What belongs to a cluster that is not applied yet is kept on this host until it is. */
async function keepForLater(host: Host, cluster: string, input: ApplyInput): Promise<void> {
  const { policy, scheduledBackups = [], verifications = [] } = input;
  const later = `kept on this host; acted on when the cluster ${cluster} is applied from here`;
  for (const manifest of scheduledBackups) {
    await host.state.scheduledBackups.save(manifest);
    say(RESOURCE.ScheduledBackup, manifest.metadata.name, later);
  }
  for (const manifest of verifications) {
    await host.state.scheduledVerifications.save(manifest);
    say(RESOURCE.ScheduledVerification, manifest.metadata.name, later);
  }
  if (!policy) return;
  await host.state.backupPolicies.save(policy);
  say(RESOURCE.BackupPolicy, policy.metadata.name, later);
}

const UPDATE_MS = 30_000;

/** @returns `undefined` when only Backups were given and no keeper of their cluster runs */
export async function applyToKeeper(
  temporal: TemporalClient,
  namespace: string,
  cluster: string,
  input: ApplyInput,
): Promise<ApplyResult | undefined> {
  const workflowId = clusterWorkflowId(namespace, cluster);
  try {
    return await temporal.call(
      `apply to ${workflowId}`,
      (client) =>
        input.cluster === undefined
          ? client.workflow.getHandle(workflowId).executeUpdate(applyUpdate, { args: [input] })
          : client.workflow.executeUpdateWithStart(applyUpdate, {
              args: [input],
              startWorkflowOperation: new WithStartWorkflowOperation(WORKFLOW.cluster, {
                workflowId,
                taskQueue: WORKFLOW_QUEUE,
                args: [input.cluster],
                workflowIdConflictPolicy: 'USE_EXISTING',
                staticSummary: `keeper of ${namespace}/${cluster}`,
              }),
            }),
      UPDATE_MS,
    );
  } catch (error) {
    if (input.cluster === undefined && isNotFound(error)) return undefined;
    throw explained(error, `${namespace}/${cluster}`);
  }
}

function isNotFound(error: unknown): boolean {
  return error instanceof Error && error.name === 'WorkflowNotFoundError';
}

const HELD_MS = 10_000;

/**
 * Until a worker, of this host if there is one, holds the manifest on its disk: what people run after `apply`, such as
 * `archive-command`, reads it there. It is applied all the same when nobody takes it in time.
 */
async function waitUntilHeld(
  temporal: TemporalClient,
  namespace: string,
  cluster: string,
  revision: number,
): Promise<void> {
  const handle = temporal.client.workflow.getHandle(clusterWorkflowId(namespace, cluster));
  const isHeld = async (): Promise<boolean> => {
    try {
      const { instances } = await temporal.call('ask', () => handle.query(clusterStatusQuery), 5_000);
      const here = instances.filter(({ host }) => host === hostname());
      return (here.length > 0 ? here : instances).some(({ revision: held = 0 }) => held >= revision);
    } catch {
      return false; // as good as nobody there; what follows will say it better
    }
  };
  for (const deadline = Date.now() + HELD_MS; Date.now() < deadline; await delay(100)) {
    if (await isHeld()) return;
  }
  note(
    `walkeep: no worker has stored the manifest of ${namespace}/${cluster} yet; that follows when one reports`,
  );
}

/** What the keeper refused, as the failure it was; a call that nobody took up most likely lacks a worker. */
function explained(error: unknown, cluster: string): unknown {
  if (error instanceof WorkflowUpdateFailedError && error.cause instanceof ApplicationFailure) {
    const { type, message, details } = error.cause;
    const [hint] = details ?? [];
    const code =
      type !== undefined && type !== null && type in ERRORS ? (type as ErrorCode) : 'manifest-invalid';
    return new BackupError(code, message, { cause: error, ...(typeof hint === 'string' && { hint }) });
  }
  if (isBackupError(error, 'temporal-unavailable')) {
    return new BackupError(
      'worker-missing',
      `nobody took up the manifest of ${cluster} within ${UPDATE_MS / 1000} s`,
      {
        cause: error,
        hint: 'start walkeep worker next to the database, then apply again; what was taken up is not lost, and applying twice does no harm',
      },
    );
  }
  return error;
}

/**
 * Without its keeper a Backup is taken, but nobody places the hold that it asks for.
 *
 * @throws BackupError `manifest-invalid` for a Backup with a hold when no Cluster comes with it
 */
function refuseUnheldBackups(
  { namespace, cluster }: { readonly namespace: string; readonly cluster: string },
  { cluster: manifest, backups = [] }: ApplyInput,
): void {
  const held = backups.find((backup) => holdOf(backup) !== undefined);
  if (manifest !== undefined || held === undefined) return;
  throw new BackupError(
    'manifest-invalid',
    `Backup "${held.metadata.name}": field "metadata.annotations": no keeper of ${namespace}/${cluster} runs, which would make walkeep.io/hold true`,
    {
      hint: 'apply the Cluster first, or with it; or take the backup without the annotation, and annotate it then',
    },
  );
}

/** Backups of a cluster that is not applied yet: they wait, visibly, for its worker, and fail after their deadline. */
async function startBackups(
  temporal: TemporalClient,
  namespace: string,
  cluster: string,
  backups: readonly BackupManifest[],
): Promise<void> {
  for (const { metadata, spec } of backups) {
    const input: BaseBackupInput = {
      cluster,
      namespace,
      name: metadata.name,
      method: methodOf(spec),
      waitForWorkerSeconds: 12 * 3600,
      ...(spec.target !== undefined && { target: spec.target }),
    };
    const outcome = await temporal.call(`start the Backup ${metadata.name}`, (client) =>
      client.workflow
        .start(WORKFLOW.baseBackup, {
          workflowId: backupWorkflowId(namespace, metadata.name),
          taskQueue: WORKFLOW_QUEUE,
          args: [input],
          workflowIdReusePolicy: 'REJECT_DUPLICATE',
          staticSummary: `base backup of ${namespace}/${cluster}`,
        })
        .then(
          () => `created; it waits for the cluster ${cluster}`,
          (error: unknown) => {
            if (error instanceof WorkflowExecutionAlreadyStartedError) return 'unchanged';
            throw error;
          },
        ),
    );
    say(RESOURCE.Backup, metadata.name, outcome);
  }
}

async function preview(host: Host, plan: ApplyPlan): Promise<void> {
  const dry = ' (dry run)';
  for (const { metadata } of plan.secrets) say('secret', metadata.name, `would be kept on this host${dry}`);
  for (const { kind, manifest } of plan.kept) {
    if (kind !== 'ObjectStore') continue;
    say(RESOURCE.ObjectStore, manifest.metadata.name, `${await saveWouldSay(host.state, manifest)}${dry}`);
  }
  if (plan.keepers.length === 0) return;
  const temporal = await host.temporal().catch((error: unknown) => {
    if (!isBackupError(error, 'temporal-unavailable')) throw error;
    note(`walkeep: ${error.message}: it is not known what would change; the manifests themselves are valid`);
    return undefined;
  });
  const said = new Set<string>();
  for (const { namespace, cluster, input } of plan.keepers) {
    const would = temporal && (await askKeeper(temporal, namespace, cluster, input));
    if (temporal && !would) refuseUnheldBackups({ namespace, cluster }, input);
    if (would) sayResult(would, said, dry);
    else sayUnasked(cluster, input, `${temporal ? 'created' : 'valid'}${dry}`);
  }
  await tellShorterWindows(host, plan.keepers);
}

function sayUnasked(cluster: string, input: ApplyInput, what: string): void {
  if (input.cluster) say(RESOURCE.Cluster, cluster, what);
  if (input.policy) say(RESOURCE.BackupPolicy, input.policy.metadata.name, what);
  for (const { metadata } of input.scheduledBackups ?? []) say(RESOURCE.ScheduledBackup, metadata.name, what);
  for (const { metadata } of input.verifications ?? [])
    say(RESOURCE.ScheduledVerification, metadata.name, what);
  for (const { metadata } of input.backups ?? []) say(RESOURCE.Backup, metadata.name, what);
}

async function askKeeper(
  temporal: TemporalClient,
  namespace: string,
  cluster: string,
  input: ApplyInput,
): Promise<ApplyResult | undefined> {
  const handle = temporal.client.workflow.getHandle(clusterWorkflowId(namespace, cluster));
  try {
    return await temporal.call(
      'ask the keeper',
      async () => {
        // one that has ended would still answer, from what it knew then
        const { status } = await handle.describe();
        return status.name === 'RUNNING' ? handle.query(previewQuery, input) : undefined;
      },
      10_000,
    );
  } catch (error) {
    if (isNotFound(error)) return undefined;
    if (error instanceof Error && error.name === 'QueryRejectedError') return undefined;
    if (!(error instanceof Error) || error.name !== 'QueryNotRegisteredError') throw error;
    // the client's name for every query that failed: only one that nobody handles says so
    if (/did not register a handler/.test(error.message)) return undefined;
    throw new BackupError('manifest-invalid', error.message, { cause: error });
  }
}
