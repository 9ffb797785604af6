import { Command } from 'commander';
import { formatProblem, hasErrors, loadManifests } from '../manifests/load.ts';
import { objectId } from '../manifests/metadata.ts';
import { readManifestSources } from '../operations/read-manifests.ts';
import { carryOut, requireTemporal } from './apply-carry-out.ts';
import { planOf } from './apply-plan.ts';
import { preview } from './apply-preview.ts';
import { tellMissingSecrets } from './apply-secrets.ts';
import { EXIT } from './exit-codes.ts';
import { withHost, type Host } from './host.ts';
import { knownObjectStores, temporalIfThere, withReferringClusters } from './object-stores.ts';
import { stateOption } from './options.ts';
import { note } from './output.ts';
import { say } from './resource-lines.ts';
import { readStandardInput } from './standard-input.ts';

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
