"""The gateway's process: the HTTP endpoint and the router behind it."""

import os
import random
import time

from actors.kernel.system import ActorSystem
from actors.messages import ProcessUp
from actors.router import RouterActor
from models.tokenizer import Tokenizer
from runtime.child import CONNECT_TIMEOUT_S, run_child
from runtime.gateway.app import create_app
from runtime.gateway.server import serve
from runtime.profile import max_model_len, model_name, model_path, open_checkpoint
from runtime.router_backend import RouterBackend
from runtime.settings import GatewaySettings
from transport.endpoint import Lane
