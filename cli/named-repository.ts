import { BackupError } from '../core/errors.ts';
import { endpointFault, examineDestination, serverNameFault } from '../manifests/object-store-location.ts';
import { referenceTo, type RepositoryReference } from '../operations/recovery-file.ts';
import { note } from './output.ts';

/** What `--repository` and `--endpoint-url` say. */
export interface NamedRepository {
  /** As `barmanObjectStore` in a manifest. It names no credentials: the environment's are used. */
  readonly store: { readonly destinationPath: string; readonly endpointURL?: string };
  /** What the caller may have expected, and what is not so. */
  readonly warning?: string;
}

/** How a command line may say which repository is meant. */
export interface NamingFlags {
  readonly filename: readonly string[];
  readonly repository?: string;
  readonly serverName?: string;
  readonly endpointUrl?: string;
}

/** Nothing that was said is passed over: it would be another repository that is read. @throws BackupError `usage` */
function requireOneNaming({ filename, repository, serverName, endpointUrl }: NamingFlags): void {
  if (repository === undefined) {
    const alone = endpointUrl !== undefined ? '--endpoint-url' : '--server-name';
    if (endpointUrl === undefined && serverName === undefined) return;
    throw new BackupError('usage', `${alone} is of --repository, which is not given`, {
      hint: 'give --repository URL, or leave it out: otherwise the manifest of the Cluster says where it is',
    });
  }
  if (filename.length > 0) {
    throw new BackupError('usage', '--repository and -f both say which repository is meant', {
      hint: 'give one of them',
    });
  }
  const fault = serverName === undefined ? undefined : serverNameFault(serverName);
  if (fault) throw new BackupError('usage', `--server-name ${fault.message}`, { hint: fault.fix });
}

/**
 * Where `--repository` says that the repository lies; a warning is printed.
 *
 * @param cluster what the command was given beside it: the folder where `--server-name` is not said
 * @returns `undefined` when the flags name none
 * @throws BackupError `usage`
 */
export function namedReference(
  flags: NamingFlags,
  { namespace, cluster }: { readonly namespace: string; readonly cluster?: string | undefined },
): { readonly reference: RepositoryReference; readonly destinationPath: string } | undefined {
  requireOneNaming(flags);
  if (flags.repository === undefined) return undefined;
  const serverName = flags.serverName ?? cluster;
  if (serverName === undefined) {
    throw new BackupError('usage', '--repository needs --server-name: the folder of the cluster in it', {
      hint: 'or give the name of the cluster, if the folder has it',
    });
  }
  const { store, warning } = namedRepository(flags.repository, flags.endpointUrl, process.env);
  if (warning !== undefined) note(`walkeep: ${warning}`);
  return {
    reference: referenceTo(store, serverName, namespace),
    destinationPath: store.destinationPath,
  };
}

/** Of barman-cloud and of Azure's tools; Azure's own chain does not look at them. */
const AZURE_KEYS = ['AZURE_STORAGE_CONNECTION_STRING', 'AZURE_STORAGE_SAS_TOKEN', 'AZURE_STORAGE_KEY'];

const BY_MANIFEST =
  'for a key, a SAS token or a connection string give a file with the Cluster and its azureCredentials by -f FILE';

/**
 * The repository that a command line names without any manifest. A recovery goes on asking it for WAL after the command is
 * over, by a file that holds no secret (S1): so nothing but the provider's own chain can open it.
 *
 * @throws BackupError `usage` when it is no address, or one that this chain can't open
 */
export function namedRepository(
  destinationPath: string,
  endpointURL: string | undefined,
  environment: Readonly<Record<string, string | undefined>>,
): NamedRepository {
  const examined = examineDestination(destinationPath);
  if ('fault' in examined) {
    const { message, fix } = examined.fault;
    throw new BackupError('usage', `--repository ${message}`, { hint: fix });
  }
  const fault = endpointURL === undefined ? undefined : endpointFault(endpointURL);
  if (fault) throw new BackupError('usage', `--endpoint-url ${fault.message}`, { hint: fault.fix });
  const store = { destinationPath, ...(endpointURL === undefined ? {} : { endpointURL }) };
  const { destination } = examined;
  if (destination.kind === 'file' && endpointURL !== undefined)
    throw new BackupError(
      'usage',
      `--endpoint-url is of no meaning beside the directory ${destinationPath}`,
      {
        hint: 'leave it out, or give the URL of a bucket',
      },
    );
  if (destination.kind !== 'azure') return { store };
  const address = endpointURL ?? destination.url;
  if (!/^https:/i.test(address)) {
    throw new BackupError(
      'usage',
      `${address} is not https: --repository opens Azure by the identity of this host alone, whose token is not sent in the clear`,
      { hint: BY_MANIFEST },
    );
  }
  const unused = AZURE_KEYS.find((name) => (environment[name] ?? '') !== '');
  return unused === undefined
    ? { store }
    : {
        store,
        warning: `${unused} is not looked at: --repository opens Azure by the identity of this host (AZURE_CLIENT_ID …, workload or managed identity, az login); ${BY_MANIFEST}`,
      };
}
